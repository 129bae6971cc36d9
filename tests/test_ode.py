"""Solvers: their orders on a nonlinear solution, a step size for each sample, gradients through the steps, and what they refuse.

The solution that is known: dx/dt = x² cos t, x(t) = 1 / (1 / x_0 - sin t + sin t_0), nonlinear and not autonomous.
"""

import math
from collections import Counter

import pytest
import torch

from pushforward.adaptive import adaptive_steps
from pushforward.errors import SolverError, UserError
from pushforward.ode import odeint
from pushforward.tableaux import METHODS

pytestmark = pytest.mark.usefixtures("float64")
FIXED = [name for name, one in METHODS.items() if not one.error]
ADAPTIVE = [name for name, one in METHODS.items() if one.error]
ORDER = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "bosh3": 3, "dopri5": 5, "tsit5": 5, "dopri8": 8}
START = [0.5, -0.4, 0.3]


def f(x, t):
    return x.square() * torch.cos(t)[:, None]


def solution(x0, t0, t1):
    return 1 / (1 / x0 - math.sin(t1) + math.sin(t0))


@pytest.fixture
def x0():
    return torch.tensor(START)[:, None]


def test_every_fixed_step_method_has_its_order_tested():
    assert set(ORDER) == set(METHODS)


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_in_fixed_steps_converges_at_its_order(method, t0, t1, x0):
    """Few steps of a high order: at 8 the error is near rounding soon."""
    tableau, n = METHODS[method], {1: 512, 2: 128, 3: 64, 4: 128, 5: 32, 8: 4}[ORDER[method]]
    assert tableau.order == ORDER[method]
    errors = [(odeint(f, x0, t0, t1, method=tableau, steps=k) - solution(x0, t0, t1)).abs().max() for k in (n, 2 * n)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDER[method], abs=0.1 if ORDER[method] < 5 else 0.5)


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

        odeint(counted, x0[:1], 0.0, 100.0, rtol=tolerance, atol=tolerance)
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
