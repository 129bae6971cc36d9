"""Forward-mode derivatives of networks (`torch.func.jvp`): those of reverse mode, whatever a network is built with or runs under."""

import conditional
import pytest
import torch
from examples import examples

import pushforward as pf
from pushforward.nn.layers import Blocks

pytestmark = pytest.mark.usefixtures("float64")
NETWORKS = [one for one in examples("nn") if hasattr(one.values[0].thing, "Config")]
OTHERS = [one for one in examples("nn") if one.id in ("nn.SelfAttention", "nn.CausalTransformer", "nn.Preconditioned")]


def _moved(net):
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net


@pytest.fixture(params=[*NETWORKS, *conditional.NETWORKS])
def subject(request):
    """The network with numbers in the layers that start at zero, and (x, t, cond)."""
    net, arguments = request.param.example()
    return _moved(net), arguments


def check(function, *inputs, seed=None):
    """Check <w, J e> of forward mode against <J' w, e> of reverse mode, for random directions e of all inputs and a random w."""

    def seeded():
        if seed is not None:
            torch.manual_seed(seed)

    inputs = [one.detach().clone().requires_grad_() for one in inputs]
    directions = tuple(torch.randn_like(one) for one in inputs)
    seeded()
    value = function(*inputs)
    w = torch.randn_like(value)
    by_reverse = sum((g * e).sum() for g, e in zip(torch.autograd.grad(value, inputs, w), directions, strict=True))
    seeded()
    again, derivative = torch.func.jvp(function, tuple(one.detach() for one in inputs), directions)
    torch.testing.assert_close(again.detach(), value.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((derivative * w).sum().detach(), by_reverse, rtol=1e-9, atol=1e-9)


def test_the_forward_derivative_is_that_of_reverse_mode(subject):
    net, (x, t, cond) = subject
    check(lambda x, t: net(x, t, cond), x, t)
    with torch.no_grad():  # fast paths, which compute values alone, stay out of the way
        forward = torch.func.jvp(lambda x, t: net(x, t, cond), (x, t), (x, t))[1]
    torch.testing.assert_close(forward, torch.func.jvp(lambda x, t: net(x, t, cond), (x, t), (x, t))[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("entry", OTHERS)
def test_attention_anywhere_has_a_forward_derivative(entry):
    net, (x, *rest) = entry.example()
    net = _moved(net)
    check(lambda x: net(x, *rest), x)


def test_the_forward_derivative_is_that_of_finite_differences():
    net, (x, t, cond) = next(one for one in NETWORKS if one.id == "nn.DiT").values[0].example()
    net, eps = _moved(net), 1e-7
    derivative = torch.func.jvp(lambda x, t: net(x, t, cond), (x, t), (torch.ones_like(x), torch.ones_like(t)))[1]
    ahead, behind = (net(x + step, t + step, cond) for step in (eps, -eps))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * eps), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [lambda: pf.nn.UNet((1, 4, 4), channels=8, depth=1, heads=2, dropout=0.5), lambda: pf.nn.DiT((1, 4, 4), width=16, depth=2, heads=2)],
)
def test_dropout_and_checkpointing_do_no_harm(make):
    net, x, t = _moved(make()).train(), torch.randn(3, 1, 4, 4), torch.rand(3)
    check(net, x, t, seed=1)
    assert isinstance(net, Blocks)
    net.activation_checkpointing = True
    check(net, x, t, seed=1)
    parameters, gradients = list(net.parameters()), []
    for net.activation_checkpointing in (True, False):
        torch.manual_seed(1)
        derivative = torch.func.jvp(net, (x, t), (torch.ones_like(x), torch.ones_like(t)))[1]
        gradients.append(torch.autograd.grad(derivative.square().sum(), parameters, allow_unused=True))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_autocast_gives_about_the_same_derivative():
    net, (x, t, cond) = next(one for one in NETWORKS if one.id == "nn.DiT").values[0].example()
    net = _moved(net).float()
    exact, low = [], []
    for found, precision in ((exact, False), (low, True)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision):
            found += torch.func.jvp(lambda x: net(x, t.float(), cond), (x.float(),), (torch.ones_like(x.float()),))
    for one, other in zip(exact, low, strict=True):
        assert float(((one - other).norm() / one.norm()).detach()) < 0.05
