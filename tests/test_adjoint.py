"""The adjoint ODE: the gradients of back-propagation, in memory that does not grow with the steps."""

import functools
import math

import pytest
import torch
from examples import one_in, some_of

from pushforward.adaptive import adaptive_steps
from pushforward.errors import SolverError
from pushforward.methods import METHODS
from pushforward.nn.mlp import MLP
from pushforward.ode import odeint

pytestmark = pytest.mark.usefixtures("float64")
TIGHT = {"method": "dopri5", "rtol": 1e-10, "atol": 1e-10}
WAYS = [pytest.param({"method": "rk4", "steps": 100}, id="rk4"), pytest.param(TIGHT, id="dopri5")]


def problem():
    """A field with a network, a tensor of args in a tree, and a label; x (4, 3)."""
    torch.manual_seed(0)
    net = MLP(3, 3, (8, 8), activation="tanh", time_features=4, classes=2)
    x, pull = torch.randn(4, 3, requires_grad=True), torch.rand(4, 1, requires_grad=True)
    args = ({"pull": pull}, torch.tensor([0, 1, 1, 0]), None)
    return net, x, pull, args, lambda x, t, tree, label, nothing: net(x, t, label) - tree["pull"] * x


def gradients(options, t0=0.0, t1=1.0):
    net, x, pull, args, field = problem()
    end = odeint(field, x, t0, t1, args, **options)
    loss = (end.square() * torch.arange(1.0, 4.0)).sum()
    return end.detach(), torch.autograd.grad(loss, [x, pull, *net.parameters()])


@pytest.mark.parametrize(("options", "ends"), some_of(WAYS, [(0.0, 1.0), (1.0, 0.0)]))
def test_gradients_are_those_of_back_propagation(options, ends):
    """By x, args and parameters: rk4's steps of 1/100 are wrong by some 1e-8 of either, dopri5 within 10 times its tolerance."""
    end, through_steps = gradients(options, *ends)
    same, adjoint = gradients({**options, "adjoint": True}, *ends)
    torch.testing.assert_close(same, end, rtol=1e-12, atol=1e-12)
    for one, two in zip(adjoint, through_steps, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-8)


@functools.cache
def _exact():
    return gradients(TIGHT)[1]


ORDERS = [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4), ("bosh3", 3)]


@pytest.mark.parametrize(("method", "order"), one_in(2, [pytest.param(*one) for one in ORDERS]))
def test_gradients_converge_at_the_methods_order(method, order):
    exact = _exact()
    n = 64  # the time features have periods down to a quarter
    errors = []
    for steps in (n, 2 * n):
        _, found = gradients({"method": METHODS[method], "steps": steps, "adjoint": True})
        errors.append(max(float((a - b).abs().max()) for a, b in zip(found, exact, strict=True)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def held(adjoint, steps):
    """How many numbers the graph of a solve keeps."""
    kept = []
    _net, x, _, args, field = problem()
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        odeint(field, x, 0.0, 1.0, args, method="rk4", steps=steps, adjoint=adjoint)
    return sum(kept)


def test_memory_does_not_grow_with_the_steps():
    assert held(True, 10) == held(True, 100)
    assert held(False, 100) > 9 * held(False, 10)
    assert held(True, 10) < held(False, 1)


def test_without_gradients_it_is_the_plain_solve():
    _, x, _, args, field = problem()
    with torch.no_grad():
        one, two = (odeint(field, x, 0.0, 1.0, args, adjoint=adjoint) for adjoint in (True, False))
    assert torch.equal(one, two)


def test_weights_prepared_outside_the_field_are_found_through_their_graph():
    weight = torch.tensor([[0.3, -0.2], [0.1, 0.4]], requires_grad=True)
    ready = torch.linalg.matrix_exp(weight)
    x = torch.ones(3, 2)
    found = [
        torch.autograd.grad(
            odeint(lambda x, t: torch.tanh(x @ ready), x, 0.0, 1.0, adjoint=adjoint, **TIGHT).sum(), weight, retain_graph=True
        )
        for adjoint in (True, False)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-8)


def test_in_log_t_gradients_are_the_same():
    rate = torch.full((2, 1), 0.5, requires_grad=True)
    end = adaptive_steps(
        lambda x, t, rate: rate * x / t.sqrt()[:, None], torch.ones(2, 1), 1e-6, 1.0, (rate,), rtol=1e-9, atol=1e-9, log=True, adjoint=True
    )
    (by_rate,) = torch.autograd.grad(end.sum(), rate)  # x = exp(2 rate (1 - 0.001)), its derivative 1.998 times that
    torch.testing.assert_close(by_rate, torch.full((2, 1), 1.998 * math.exp(0.999)), rtol=1e-7, atol=1e-7)


def test_a_derivative_that_is_not_finite_is_refused_with_sample_and_time():
    """The field's value stays 0 at x = 0, its slope there is infinite; rows are told apart by their start."""
    x = torch.tensor([[1.0], [0.0]], requires_grad=True)
    end = odeint(lambda x, t: x.abs().sqrt(), x, 0.0, 1.0, adjoint=True)
    with pytest.raises(SolverError, match="the adjoint stops at t = 1 in sample 1: the field or its derivative is not finite"):
        end.sum().backward()


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch_has_empty_gradients(method):
    x = torch.zeros(0, 2, requires_grad=True)
    odeint(lambda x, t: -x, x, 0.0, 1.0, method=method, adjoint=True, **({} if METHODS[method].error else {"steps": 2})).sum().backward()
    assert x.grad.shape == (0, 2)


class Slope(torch.nn.Module):
    """Two layers, of which one is read early and one late, and one that is never read."""

    def __init__(self):
        super().__init__()
        self.layers, self.idle = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2)), torch.nn.Linear(2, 2)

    def forward(self, x, t):
        return self.layers[int(t[0] > 0.4)](x).tanh()

    def method(self, x, t):
        return self(x, t)


class Slotted:
    __slots__ = ("held",)

    def __init__(self, net):
        self.held = [net]

    def __call__(self, x, t):
        return self.held[0](x, t)


def holders(net):
    """Return a net held in all the ways that Python has."""
    table = {"early": (net.layers[0].weight, net.layers[0].bias), "late": (net.layers[1].weight, net.layers[1].bias)}

    def by_table(x, t, table):
        return torch.nn.functional.linear(x, *table["late" if t[0] > 0.4 else "early"]).tanh()

    hidden = iter(lambda: net, None)  # nothing can be seen in an iterator: the graph shows what is read
    return {
        "module": net,
        "bound": net.method,
        "closure": lambda x, t: net(x, t),
        "partial": functools.partial(by_table, table=table),
        "default": lambda x, t, table=table: by_table(x, t, table),
        "slots": Slotted(net),
        "hidden": lambda x, t: next(hidden)(x, t),
    }


@pytest.mark.parametrize("name", holders(Slope()))
@pytest.mark.parametrize("options", [{"method": "rk4", "steps": 20}, {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}])
def test_parameters_are_found_wherever_the_field_holds_them(name, options):
    """The jump in time costs fixed steps half a step, a fortieth."""
    torch.manual_seed(0)
    net, x, found = Slope(), torch.randn(3, 2), []
    for adjoint in (True, False):
        net.zero_grad()
        odeint(holders(net)[name], x, 0.0, 1.0, adjoint=adjoint, **options).sum().backward()
        found.append([one.grad for one in net.layers.parameters()])
        assert net.idle.weight.grad is None  # held, but never read
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_state_without_features_has_its_gradient(method):
    options = {} if METHODS[method].error else {"steps": 200}
    x = torch.ones(3, requires_grad=True)
    odeint(lambda x, t: -x, x, 0.0, 1.0, method=method, adjoint=True, **options).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), math.exp(-1)), rtol=0, atol=2e-3)


@pytest.mark.parametrize("options", [{"method": "heun", "steps": 3}, {}])
def test_a_field_that_depends_on_nothing_has_gradients_too(options):
    x = torch.ones(3, 1, requires_grad=True)
    odeint(lambda x, t: torch.ones_like(x), x, 0.0, 1.0, adjoint=True, **options).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3, 1))


@pytest.mark.parametrize("options", [{"method": "rk4", "steps": 5}, {"rtol": 0.01, "atol": 0.01}])
def test_backward_runs_in_the_autocast_of_the_way_there(options):
    seen, net, x = set(), torch.nn.Linear(3, 3).float(), torch.randn(4, 3).float().requires_grad_()

    def field(x, t):
        seen.add((out := net(x)).dtype)
        return out.tanh()

    with torch.autocast("cpu", torch.bfloat16):
        end = odeint(field, x, 0.0, 1.0, adjoint=True, **options)
    end.sum().backward()
    assert seen == {torch.bfloat16}
    assert net.weight.grad.isfinite().all()


def test_half_precision_has_gradients():
    x = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    odeint(lambda x, t: -x, x, 0.0, 1.0, adjoint=True).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3, 2), math.exp(-1), dtype=torch.bfloat16), rtol=0.02, atol=0)


@pytest.mark.parametrize("options", [{"method": "rk4", "steps": 20}, {"rtol": 1e-8, "atol": 1e-8}])
@pytest.mark.parametrize("leaves", [True, False])
def test_other_parameters_of_one_call_have_the_gradients_without_the_adjoint(options, leaves):
    """As in MAML: the module has its own parameters again when the gradients are computed."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    given = {name: (1.5 * p.detach()).requires_grad_() for name, p in net.named_parameters()}
    before = dict(net.named_parameters())

    class Solved(torch.nn.Module):
        def __init__(self, adjoint):
            super().__init__()
            self.net, self.adjoint = net, adjoint

        def forward(self, x):
            return odeint(lambda x, t: self.net(x), x, 0.0, 1.0, adjoint=self.adjoint, **options)

    def gradients(adjoint):
        others = {f"net.{name}": p if leaves else p.sin() for name, p in given.items()}
        loss = torch.func.functional_call(Solved(adjoint), others, (x,)).square().sum()
        return torch.autograd.grad(loss, [x, *given.values()])

    for one, two in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert dict(net.named_parameters()) == before
    assert all(one is before[name] for name, one in net.named_parameters())


def test_frozen_parameters_of_one_call_have_no_gradients():
    net = torch.nn.Linear(2, 2)
    x = torch.ones(3, 2, requires_grad=True)

    class Solved(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return odeint(lambda x, t: self.net(x), x, 0.0, 1.0, method="rk4", steps=4, adjoint=True)

    fixed = {f"net.{name}": p.detach() for name, p in net.named_parameters()}
    torch.func.functional_call(Solved(), fixed, (x * net.weight.sum(),)).sum().backward()
    assert net.bias.grad is None
    assert x.grad is not None
