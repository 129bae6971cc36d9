"""Solvers: their orders on a nonlinear solution, a step size for each sample, gradients through the steps, and what they refuse.

The solution that is known: dx/dt = x² cos t, x(t) = 1 / (1 / x_0 - sin t + sin t_0), nonlinear and not autonomous.
"""

import math
from collections import Counter

import pytest
import torch

from pushforward.adaptive import adaptive_steps
from pushforward.errors import DtypeError, ShapeError, SolverError, UserError
from pushforward.methods import METHODS
from pushforward.ode import odeint

pytestmark = pytest.mark.usefixtures("float64")
ADAPTIVE = [name for name, one in METHODS.items() if one.error]
START = [0.5, -0.4, 0.3]


def f(x, t):
    return x.square() * torch.cos(t)[:, None]


def solution(x0, t0, t1):
    return 1 / (1 / x0 - math.sin(t1) + math.sin(t0))


@pytest.fixture
def x0():
    return torch.tensor(START)[:, None]


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (-3.0, 2.5)])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_an_adaptive_method_is_right_within_ten_times_its_tolerance(method, tolerance, t0, t1, x0):
    error = odeint(f, x0, t0, t1, method=method, rtol=tolerance, atol=tolerance) - solution(x0, t0, t1)
    assert error.abs().max() < 10 * tolerance


def test_dopri5_solves_a_float64_state_in_float64_whatever_the_default(x0, float32):
    error = odeint(f, x0.double(), 0.0, 1.0, rtol=1e-12, atol=1e-12) - solution(x0.double(), 0.0, 1.0)
    assert error.abs().max() < 1e-11


def test_dopri5_has_order_five(x0):
    """Error per unit step control makes the error fall as the tolerance; the evaluations rise as its fifth root: 10^(5/5) = 10 times."""
    counts = []
    for tolerance in (1e-6, 1e-11):
        calls = Counter()

        def counted(x, t, calls=calls):
            calls["f"] += 1
            return f(x, t)

        odeint(counted, x0[:1], 0.0, 30.0, rtol=tolerance, atol=tolerance)
        counts.append(calls["f"])
    assert 10**0.8 < counts[1] / counts[0] < 10**1.2


@pytest.mark.parametrize("method", METHODS)
def test_float32_is_solved_in_float32(method, x0):
    """RK4 and dopri5 reach 1e-5 here, where float32 rounds at 1e-7; the others are as wrong as 100 steps of their order are."""
    options = {} if METHODS[method].error else {"steps": 100}
    x = odeint(f, x0.float(), 0.0, 1.0, method=method, **options)
    assert x.dtype == torch.float32
    exact = odeint(f, x0, 0.0, 1.0, method=method, **options)
    torch.testing.assert_close(x.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(), (3,), (1, 4, 4)])
def test_any_event_shape_is_solved_as_its_numbers(shape, method):
    """dx/dt = -x has no word on shapes; f must see them as they came, and t as one number a row."""
    options = {"rtol": 1e-8, "atol": 1e-8} if METHODS[method].error else {"steps": 5}
    seen = set()

    def decay(x, t):
        seen.add((x.shape, t.shape))
        return -x

    x = torch.rand(2, *shape) + 1
    out = odeint(decay, x, 0.0, 1.0, method=method, **options)
    flat = odeint(lambda x, t: -x, x.reshape(2, -1), 0.0, 1.0, method=method, **options)
    alone = {((1, *shape), (1,))} if METHODS[method].error else set()  # one sample may arrive, and leave, before the other
    assert seen - alone == {(x.shape, (2,))}
    torch.testing.assert_close(out.reshape(2, -1), flat, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch_stays_empty(method):
    options = {} if METHODS[method].error else {"steps": 3}
    assert odeint(f, torch.zeros(0, 2), 0.0, 1.0, method=method, **options).shape == (0, 2)


@pytest.mark.parametrize("method", METHODS)
def test_no_time_means_no_change(method, x0):
    options = {} if METHODS[method].error else {"steps": 3}
    assert torch.equal(odeint(f, x0, 0.5, 0.5, method=method, **options), x0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grad", [False, True])
def test_the_state_given_is_not_written(method, grad, x0):
    options = {} if METHODS[method].error else {"steps": 3}
    expanded = x0[:1].expand(3, 2)
    with torch.set_grad_enabled(grad):
        out = odeint(f, expanded, 0.0, 1.0, method=method, **options)
    assert torch.equal(expanded, torch.full((3, 2), START[0]))
    torch.testing.assert_close(out[0], out[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_field_may_return_its_argument_or_write_into_its_time(method):
    options = {} if METHODS[method].error else {"steps": 50}

    def careless(x, t):
        t.zero_()
        return x

    x = odeint(careless, torch.ones(2, 1), 0.0, 1.0, method=method, **options)
    assert x.sub(math.e).abs().max() < 0.03  # Euler with 50 steps: e / 100


def decay(x, t, rate, calls=None, ids=None):
    if calls is not None:
        calls.update(ids.tolist())
    return -rate[:, None] * (x - torch.sin(t)[:, None])


def test_a_stiff_row_costs_the_easy_ones_nothing():
    """Evaluations are counted by the row's own id, which travels in args; at most the steps until a quarter has arrived are shared."""
    rate, ids = torch.tensor([1.0, 2.0, 300.0, 0.5]), torch.arange(4)
    together, alone = Counter(), Counter()
    odeint(lambda x, t, r, i: decay(x, t, r, together, i), torch.ones(4, 2), 0.0, 1.0, (rate, ids))
    for k in range(4):
        row = slice(k, k + 1)
        odeint(lambda x, t, r, i: decay(x, t, r, alone, i), torch.ones(1, 2), 0.0, 1.0, (rate[row], ids[row]))
    slowest_easy = max(alone[k] for k in (0, 1, 3))
    assert alone[2] > 5 * slowest_easy
    assert max(together[k] for k in (0, 1, 3)) <= 2 * slowest_easy
    assert together[2] == alone[2]


def test_a_row_is_solved_as_if_it_were_alone():
    rate = torch.tensor([1.0, 2.0, 300.0, 0.5])
    together = odeint(decay, torch.ones(4, 2), 0.0, 1.0, (rate,), rtol=1e-6, atol=1e-6)
    alone = torch.cat([odeint(decay, torch.ones(1, 2), 0.0, 1.0, (rate[k : k + 1],), rtol=1e-6, atol=1e-6) for k in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_samples_that_stay_in_the_batch_are_solved_the_same():
    rate = torch.tensor([1.0, 2.0, 300.0, 0.5])
    staying = adaptive_steps(lambda x, t: decay(x, t, rate), torch.ones(4, 2), 0.0, 1.0, rtol=1e-6, atol=1e-6, leave=False)
    leaving = odeint(decay, torch.ones(4, 2), 0.0, 1.0, (rate,), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(staying, leaving, rtol=1e-5, atol=1e-5)


def test_args_are_cut_with_the_batch_whatever_their_tree():
    rate = torch.tensor([0.1, 1000.0, 0.2, 0.3])
    sizes = set()

    def field(x, t, tree, nothing, word):
        sizes.add(len(x))
        assert (len(tree["rate"][0]), nothing, word) == (len(x), None, "word")
        return -tree["rate"][0][:, None] * x

    x = odeint(field, torch.ones(4, 1), 0.0, 1.0, ({"rate": [rate]}, None, "word"))
    torch.testing.assert_close(x[:, 0], torch.exp(-rate), rtol=1e-4, atol=1e-4)
    assert min(sizes) < 4


@pytest.mark.parametrize(("method", "options"), [("rk4", {"steps": 200}), ("dopri5", {"rtol": 1e-10, "atol": 1e-10})])
def test_gradients_through_the_steps_are_those_of_the_solution(method, options):
    """dx/dt = a x: x(1) = x_0 exp(a), so its derivatives are exp(a) and x_0 exp(a). RK4's error is 1 / (120 200^4) of them, 5e-12."""
    a, x = torch.tensor([0.5, -1.0], requires_grad=True), torch.tensor([[1.5], [0.7]], requires_grad=True)
    out = odeint(lambda x, t, a: a[:, None] * x, x, 0.0, 1.0, (a,), method=method, **options)
    by_x, by_a = torch.autograd.grad(out.sum(), (x, a))
    torch.testing.assert_close(by_x, a.detach().exp()[:, None], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_a, (x[:, 0] * a.exp()).detach(), rtol=1e-9, atol=1e-9)


def test_gradients_of_samples_that_left_early_are_kept():
    rate = torch.tensor([0.1, 300.0, 0.2, 0.3], requires_grad=True)
    odeint(lambda x, t, r: -r[:, None] * x, torch.ones(4, 1), 0.0, 1.0, (rate,), rtol=1e-8, atol=1e-8).sum().backward()
    torch.testing.assert_close(rate.grad, -torch.exp(-rate.detach()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_values_with_and_without_gradients_are_the_same(method, x0):
    options = {} if METHODS[method].error else {"steps": 3}
    with torch.no_grad():
        without = odeint(f, x0, 0.0, 1.0, method=method, **options)
    torch.testing.assert_close(odeint(f, x0.requires_grad_(), 0.0, 1.0, method=method, **options), without, rtol=1e-12, atol=1e-12)


def test_a_field_that_is_not_finite_names_sample_and_time():
    def breaks(x, t, ids):
        return torch.where((ids == 2) & (t > 0.5), float("nan"), 1.0)[:, None] * torch.ones_like(x)

    with pytest.raises(SolverError, match=r"the field is not finite at t = 0\.[0-9]+ in sample 2"):
        odeint(breaks, torch.zeros(4, 1), 0.0, 1.0, (torch.arange(4),))


def test_a_field_that_is_nan_at_once_is_refused():
    with pytest.raises(SolverError, match="the field is not finite at t = 0 in sample 1"):
        odeint(lambda x, t, bad: bad[:, None] * x, torch.ones(2, 1), 0.0, 1.0, (torch.tensor([1.0, math.nan]),))


def test_a_start_that_is_not_finite_is_blamed_itself():
    with pytest.raises(SolverError, match="^x is not finite at t = 0 in sample 1; replace or leave out"):
        odeint(lambda x, t: -x, torch.tensor([[1.0], [math.nan]]), 0.0, 1.0)


def test_a_singular_field_is_refused_with_sample_and_time():
    """dx/dt = x² from 1 is infinite at t = 1."""
    with pytest.raises(SolverError, match=r"(too small|not finite) at t = (0\.9999|1).* in sample 1"):
        odeint(lambda x, t, on: on[:, None] * x.square(), torch.ones(2, 1), 0.0, 2.0, (torch.tensor([0.0, 1.0]),))


def test_too_many_steps_are_refused_with_sample_and_time():
    with pytest.raises(SolverError, match=r"dopri5 took 20 steps and sample 2 is only at t = 0\.[0-9]+"):
        odeint(decay, torch.ones(4, 2), 0.0, 1.0, (torch.tensor([1.0, 2.0, 3000.0, 0.5]),), max_steps=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rk45"}, "'rk45' is not a known method; did you mean 'rk4'"),
        ({"method": "euler"}, "steps is None, but euler needs at least 1"),
        ({"method": "euler", "steps": 0}, "steps is 0"),
        ({"steps": 3}, "steps is 3, but dopri5 chooses its own"),
        ({"rtol": -1.0}, "rtol is -1.0"),
        ({"rtol": 0.0, "atol": 0.0}, "both must be at least 0 and one positive"),
        ({"rtol": math.nan}, "rtol is nan"),
    ],
)
def test_bad_options_are_refused(options, message, x0):
    with pytest.raises(UserError, match=message):
        odeint(f, x0, 0.0, 1.0, **options)


@pytest.mark.parametrize(("t0", "t1"), [(1e-8, 1.0), (1.0, 1e-8)])
def test_steps_in_log_t_are_few_where_the_field_grows_towards_zero(t0, t1):
    """dx/dt = x / (2 sqrt t) has x(t) = x_0 exp(sqrt t - sqrt t_0)."""
    calls = Counter()

    def steep(x, t):
        calls["f"] += 1
        return x / (2 * t.sqrt())[:, None]

    x = adaptive_steps(steep, torch.ones(1, 1), t0, t1, rtol=1e-6, atol=1e-6, log=True)
    assert float(x) == pytest.approx(math.exp(math.sqrt(t1) - math.sqrt(t0)), rel=1e-5)
    in_log, calls["f"] = calls["f"], 0
    adaptive_steps(steep, torch.ones(1, 1), t0, t1, rtol=1e-6, atol=1e-6)
    assert in_log < calls["f"] / 2


def test_an_error_in_log_t_names_t():
    """What is solved would not reach t = 0.5: log t is negative, t itself is not."""
    with pytest.raises(SolverError, match=r"not finite at t = 0\.[0-4][0-9]* in sample 0"):
        adaptive_steps(lambda x, t: torch.where(t < 0.5, x, math.nan), torch.ones(1, 1), 0.1, 1.0, rtol=1e-5, atol=1e-5, log=True)


WAYS = [pytest.param({"method": name, **({} if one.error else {"steps": 100})}, id=name) for name, one in METHODS.items()]


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("times", [[0.0, 0.3, 0.35, 1.0], [0.5], [1.0, 1.0], torch.tensor([-0.2, -1.0])])
def test_states_at_several_times_are_those_at_each(options, times, x0):
    """Steps end at each of the times, so that all states are as exact as the last; euler's 0.01 is that of a hundred steps."""
    tight = {} if "steps" in options else {"rtol": 1e-9, "atol": 1e-9}
    states = odeint(f, x0, 0.0, times, **options, **tight)
    assert states.shape == (len(times), *x0.shape)
    for state, t in zip(states, times, strict=True):
        torch.testing.assert_close(state, solution(x0, 0.0, float(t)), rtol=0, atol=1e-8 if tight else 0.01)


def test_the_start_may_be_one_of_the_times(x0):
    assert torch.equal(odeint(f, x0, 0.0, [0.0, 0.0, 0.5])[:2], torch.stack((x0, x0)))


@pytest.mark.parametrize("times", [[0.5, 0.3], [-0.1, 0.5], [0.5, 0.0], [0.2, math.nan], []])
def test_times_that_turn_are_refused(times, x0):
    with pytest.raises(UserError, match=r"t1 (goes from|is empty)"):
        odeint(f, x0, 0.0, times)


def test_samples_that_left_come_back_for_the_next_time():
    rate, tight = torch.tensor([1.0, 2.0, 300.0, 0.5]), {"rtol": 1e-7, "atol": 1e-7}
    states = odeint(decay, torch.ones(4, 2), 0.0, [0.1, 0.6, 1.0], (rate,), **tight)
    for t, state in zip([0.1, 0.6, 1.0], states, strict=True):
        torch.testing.assert_close(state, odeint(decay, torch.ones(4, 2), 0.0, t, (rate,), **tight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("options", [{"method": "rk4", "steps": 100}, {"rtol": 1e-9, "atol": 1e-9}, {"method": "dopri8", "rtol": 1e-9}])
def test_states_at_several_times_have_gradients(options, adjoint):
    """X(t) = x_0 exp(a t): the sum over times has derivatives sum exp(a t) and sum t x_0 exp(a t)."""
    x, a, times = torch.tensor([[1.5], [0.7]], requires_grad=True), torch.tensor([0.5, -1.0], requires_grad=True), torch.tensor([0.2, 1.0])
    states = odeint(lambda x, t, a: a[:, None] * x, x, 0.0, times, (a,), adjoint=adjoint, **options)
    by_x, by_a = torch.autograd.grad(states.sum(), (x, a))
    growth = torch.exp(a.detach()[:, None] * times)
    torch.testing.assert_close(by_x[:, 0], growth.sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_a, x.detach()[:, 0] * (growth * times).sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("wrong", [lambda x, t: x.expand(-1, 2), lambda x, t: x[:, 0], lambda x, t: x.sum()])
def test_a_field_of_another_shape_is_refused(options, wrong, x0):
    with pytest.raises(ShapeError, match=r"the field returns shape \(.*\) for a state of shape \(3, 1\)"):
        odeint(wrong, x0, 0.0, 1.0, **options)


@pytest.mark.parametrize("options", WAYS)
def test_integers_are_refused(options):
    with pytest.raises(DtypeError, match=r"the state's dtype is torch.int64.*x\.float\(\)"):
        odeint(f, torch.ones(2, 1, dtype=torch.long), 0.0, 1.0, **options)


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("adjoint", [False, True])
def test_complex_states_turn(options, adjoint):
    """dx/dt = i w x: x(1) = exp(i w) x_0; euler's hundred steps are 0.02 off."""
    x, w = torch.ones(2, 1, dtype=torch.complex128, requires_grad=True), torch.tensor([[0.3], [1.0]], requires_grad=True)
    end, exact = odeint(lambda x, t, w: 1j * w * x, x, 0.0, 1.0, (w,), adjoint=adjoint, **options), torch.exp(1j * w) * x
    torch.testing.assert_close(end, exact, rtol=0, atol=0.02)
    for one, two in zip(*(torch.autograd.grad(value.imag.sum(), (x, w)) for value in (end, exact)), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0.03)


def test_a_complex_field_for_a_real_state_is_refused(x0):
    with pytest.raises(DtypeError, match="the field returns torch.complex128 for a state of torch.float64"):
        odeint(lambda x, t: 1j * x, x0, 0.0, 1.0, method="rk4", steps=3)


@pytest.mark.parametrize("options", [{"method": "euler", "steps": 1000}, {"method": "rk4", "steps": 1000}, {}, {"method": "bosh3"}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_of_16_bits_are_solved_in_32(options, dtype):
    """A thousandth of the state is lost in bfloat16's rounding; the field still meets the state's own dtype."""
    seen = set()

    def shrink(x, t):
        seen.add(x.dtype)
        return -x

    end = odeint(shrink, torch.ones(3, 1, dtype=dtype), 0.0, 1.0, **options)
    assert (end.dtype, seen) == (dtype, {dtype})
    torch.testing.assert_close(end.double(), torch.full((3, 1), math.exp(-1)), rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("grad", [False, True])
def test_autocast_reaches_the_field_alone(options, grad):
    weight, x, seen = torch.randn(3, 3).float(), torch.randn(4, 3).float(), set()

    def field(x, t):
        seen.add((x.dtype, (out := x @ weight).dtype))
        return out.float() * 0 - x

    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        end = odeint(field, x.requires_grad_(grad), 0.0, 1.0, **options)
    assert seen == {(torch.float32, torch.bfloat16)}
    torch.testing.assert_close(end, odeint(lambda x, t: -x, x, 0.0, 1.0, **options), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", WAYS)
def test_inference_mode_gives_the_same(options, x0):
    with torch.inference_mode():
        inside = odeint(f, x0, 0.0, 1.0, **options)
    torch.testing.assert_close(inside.clone(), odeint(f, x0, 0.0, 1.0, **options), rtol=1e-12, atol=1e-12)


def test_a_tableau_without_error_weights_needs_steps(x0):
    tableau = METHODS["rk4"]
    assert torch.equal(odeint(f, x0, 0.0, 1.0, method=tableau, steps=3), odeint(f, x0, 0.0, 1.0, method="rk4", steps=3))
    with pytest.raises(UserError, match="steps is None, but rk4 needs at least 1"):
        odeint(f, x0, 0.0, 1.0, method=tableau)
