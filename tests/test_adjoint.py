"""The adjoint ODE: the gradients of back-propagation, in memory that does not grow with the steps."""

import math

import pytest
import torch

from pushforward.adaptive import adaptive_steps
from pushforward.errors import SolverError
from pushforward.nn.mlp import MLP
from pushforward.ode import odeint
from pushforward.tableaux import METHODS

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


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("options", WAYS)
def test_gradients_are_those_of_back_propagation(options, t0, t1):
    """By x, args and parameters: rk4's steps of 1/100 are wrong by some 1e-8 of either, dopri5 within 10 times its tolerance."""
    end, through_steps = gradients(options, t0, t1)
    same, adjoint = gradients({**options, "adjoint": True}, t0, t1)
    torch.testing.assert_close(same, end, rtol=1e-12, atol=1e-12)
    for one, two in zip(adjoint, through_steps, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_gradients_converge_at_the_methods_order(method, order):
    _, exact = gradients(TIGHT)
    n = 64  # the time features have periods down to a quarter
    errors = []
    for steps in (n, 2 * n):
        _, found = gradients({"method": method, "steps": steps, "adjoint": True})
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
