"""The fast path of an MLP that reads further numbers: the plain path's values, gradients and derivatives."""

import pytest
import torch

import pushforward as pf
from pushforward import dispatch
from pushforward.errors import ShapeError, UserError

pytestmark = pytest.mark.usefixtures("float64")

CONDITIONS = {"none": ({}, None), "labels": ({"classes": 3}, torch.tensor([0, 1, 2, 0, 1])), "vectors": ({"cond_features": 2}, None)}


def _net(numbers, **options):
    torch.manual_seed(0)
    net = pf.nn.MLP(4, 8, (16, 12, 8), time_features=8, numbers=numbers, **options)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net


def _results(net, x, t, cond, numbers):
    def call(x, t):
        return net(x, t, cond, **numbers)

    net.zero_grad()
    with torch.no_grad():
        value = call(x, t)
    call(x, t).square().sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    with torch.no_grad():
        derivative = torch.func.jvp(call, (x, t), (x.cos(), torch.ones_like(t)))[1]
    return [value, derivative, *gradients]


@pytest.mark.parametrize("same", [False, True], ids=["times", "one time"])
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("count", [1, 4])
def test_the_plain_and_the_fast_path_agree(count, condition, same):
    options, cond = CONDITIONS[condition]
    x, t = torch.randn(5, 4), torch.full((5,), 0.7) if same else torch.rand(5)
    cond = torch.randn(5, 2) if condition == "vectors" else cond
    numbers = {"r": t / 2} if same else {"r": t * torch.rand(5)}
    if count == 4:
        numbers["guidance"] = torch.tensor([[2.0, 0.1, 0.9]]).expand(5, 3) if same else 1 + torch.rand(5, 3)
    net = _net(count, **options)
    assert dispatch.way_of(net, "forward") is not None
    for given in (cond, None):
        found = _results(net, x, t, given, numbers)
        with pf.fast.disabled():
            plain = _results(net, x, t, given, numbers)
        assert len(found) == len(plain)
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_another_embedding_of_a_number_is_used():
    net, x, t = _net(1), torch.randn(5, 4), torch.rand(5)
    before = net(x, t, r=t / 2)
    net.numbers.nets[0][0].scale *= 2
    after = net(x, t, r=t / 2)
    assert not torch.allclose(before, after)
    with pf.fast.disabled():
        torch.testing.assert_close(net(x, t, r=t / 2), after)


def test_a_guidance_scale_that_is_not_read_is_refused():
    with pytest.raises(UserError, match="reads no guidance scale"):
        _net(1)(torch.randn(5, 4), torch.rand(5), guidance=torch.ones(5, 3))


def _without_bias(layer):
    layer.bias = None


# Parts that users may set: of types whose weights the fast path would read, or not looked at by it.
REPLACED = {
    "activation": lambda net: setattr(net, "act", torch.sin),
    "activation module": lambda net: setattr(net, "act", torch.nn.GELU()),
    "output sequence": lambda net: setattr(net, "out", torch.nn.Sequential(net.out, torch.nn.SiLU())),
    "layer sequence": lambda net: net.layers.__setitem__(1, torch.nn.Sequential(net.layers[1], torch.nn.LayerNorm(12))),
    "layer without bias": lambda net: _without_bias(net.layers[0]),
    "output without bias": lambda net: _without_bias(net.out),
    "time with bias": lambda net: setattr(net, "time", torch.nn.Linear(8, 36)),
    "time sequence": lambda net: setattr(net, "time", torch.nn.Sequential(net.time, torch.nn.SiLU())),
    "longer number net": lambda net: net.numbers.nets[0].append(torch.nn.SiLU()) if net.numbers is not None else setattr(net, "time", None),
}


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("change", REPLACED)
def test_a_replaced_part_is_called(change, count):
    net, x, t = _net(count), torch.randn(5, 4), torch.rand(5)
    numbers = {"r": t / 2} if count else {}
    with torch.no_grad():
        before = net(x, t, **numbers)
        REPLACED[change](net)
        found = net(x, t, **numbers)
    assert not torch.allclose(before, found)
    trained = net(x, t, **numbers)
    with pf.fast.disabled():
        torch.testing.assert_close(net(x, t, **numbers), found)
    torch.testing.assert_close(trained, found)


def test_the_divergence_of_a_network_with_other_outputs_is_refused():
    net, x, t = _net(0), torch.randn(5, 4), torch.rand(5)
    prepared = dispatch.preparer(net)(None)
    torch.testing.assert_close(prepared(x, t), net(x, t))
    for one in (net, prepared):
        with pytest.raises(ShapeError, match="a divergence needs equal shapes"):
            one.value_and_divergence(x, t)
