"""The fast path of chains of vector bijections: the plain path's numbers, for every type that it knows."""

import contextlib

import pytest
import torch

import pushforward as pf
from pushforward import dispatch, registry
from pushforward.errors import ShapeError
from pushforward.fast.chain import STEPS


def _chain(kind):
    step, x, cond = registry.entry(f"bijections.{kind.__name__}").example()
    torch.manual_seed(1)
    features = step.features
    chain = pf.bijections.Chain([pf.bijections.Reverse(features), step, pf.bijections.Scale(features)]).double()
    with torch.no_grad():
        for p in chain.parameters():
            p.copy_(0.3 * torch.randn_like(p))
    double = cond.double() if cond is not None and cond.is_floating_point() else cond
    return chain, x.double(), double


def _found(chain, x, cond):
    chain.zero_grad()
    x = x.clone().requires_grad_()
    z, log_abs_det = chain(x, cond)
    back, back_log = chain.inverse(z.detach(), cond)
    (z.square().sum() + log_abs_det.sum() + back.pow(3).sum() + 2 * back_log.sum()).backward()
    return [z, log_abs_det, back, back_log, x.grad, *(p.grad.clone() for p in chain.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.__name__)
def test_a_known_step_gives_values_and_gradients_of_the_plain_path(kind):
    chain, x, cond = _chain(kind)
    assert dispatch.way_of(chain, "through") is not None
    found = _found(chain, x, cond)
    with pf.fast.disabled():
        plain = _found(chain, x, cond)
    assert len(found) == len(plain)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[2], x, rtol=0, atol=1e-9)


def test_a_chain_within_a_chain_receives_and_returns_columns():
    inner = pf.bijections.Chain([pf.bijections.AffineCoupling(4, (8,)), pf.bijections.Reverse(4)])
    outer, x = pf.bijections.Chain([inner, pf.bijections.Inverse(inner)]), torch.randn(3, 4)
    z, log_abs_det = outer(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_abs_det, torch.zeros(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["params", "transform", "map_columns"])
def test_a_method_replaced_in_one_step_is_used(method):
    chain, x = pf.bijections.Chain([pf.bijections.AffineCoupling(4, (8,)), pf.bijections.Reverse(4)]), torch.randn(3, 4)
    before, own = chain(x)[0], getattr(chain.steps[0], method)
    calls = []
    setattr(chain.steps[0], method, lambda *args, **options: calls.append(method) or own(*args, **options))
    torch.testing.assert_close(chain(x)[0], before)
    assert calls == [method]


def test_columns_of_another_number_of_features_are_refused():
    chain = pf.bijections.Chain([pf.bijections.AffineCoupling(4, (8,)), pf.bijections.Reverse(4)])
    with pytest.raises(ShapeError, match=r"x has shape \(3, 5\), but this bijection needs \(n, 4\)"):
        chain(torch.randn(3, 5))


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("features", [3, 5])
@pytest.mark.parametrize("place", [0, 2], ids=["first", "last"])
def test_a_step_of_another_size_is_refused_at_the_first_call(place, features, fast):
    """It was given to `steps` after the chain was made; within another chain or an inverse it is found too."""
    chain = pf.bijections.Chain([pf.bijections.AffineCoupling(4, (8,)), pf.bijections.Reverse(4)])
    outer, x = pf.bijections.Chain([pf.bijections.Scale(4), pf.bijections.Inverse(chain)]), torch.randn(3, 4)
    outer(x)
    chain.steps.insert(place, pf.bijections.Reverse(features))
    with contextlib.nullcontext() if fast else pf.fast.disabled():
        for call in (chain, chain.inverse, outer, outer.inverse, chain):
            with pytest.raises(ShapeError, match=rf"for vectors of .*{features}.* features.*; give all|needs \(n, {features}\)"):
                call(x)
    del chain.steps[place]
    chain(x)


def test_an_inverse_of_another_size_is_refused_within_a_chain():
    inverse = pf.bijections.Inverse(pf.bijections.Scale(4))
    chain = pf.bijections.Chain([pf.bijections.Reverse(4), inverse])
    inverse.bijection = pf.bijections.Scale(3)
    with pytest.raises(ShapeError, match=r"Inverse is for vectors of 3 features, but what it receives in this chain has 4; give all steps"):
        chain(torch.randn(3, 4))


def test_a_density_is_compiled_in_one_graph():
    model, x = pf.models.realnvp(2, 2, (4,)), torch.randn(3, 2)
    found = torch.compile(lambda x: model.log_prob(x), backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(found, model.log_prob(x))


@pytest.mark.parametrize("method", ["params", "transform", "map_columns", "inverse"])
def test_a_method_replaced_on_a_class_is_used(method, monkeypatch):
    chain, x = pf.bijections.Chain([pf.bijections.AffineCoupling(4, (8,)), pf.bijections.Reverse(4)]), torch.randn(3, 4)
    before, own, calls = chain.inverse(x)[0], getattr(pf.bijections.AffineCoupling, method), []
    monkeypatch.setattr(pf.bijections.AffineCoupling, method, lambda *args, **options: calls.append(method) or own(*args, **options))
    torch.testing.assert_close(chain.inverse(x)[0], before)
    assert calls == [method]


def test_other_steps_given_by_a_chain_are_used():
    chain, x = pf.bijections.Chain([pf.bijections.AffineCoupling(4, (8,)), pf.bijections.Reverse(4)]), torch.randn(3, 4)
    chain.runs = lambda: [chain.steps[1]]
    assert torch.equal(chain(x)[0], x.flip(1))


def _without_bias(layer):
    layer.bias = None


REPLACED = {
    "sequence": lambda net: setattr(net, "out", torch.nn.Sequential(net.out, torch.nn.SiLU())),
    "norm": lambda net: net.layers.append(torch.nn.LayerNorm(8)),
    "no bias": lambda net: _without_bias(net.layers[0]),
    "no output bias": lambda net: _without_bias(net.out),
}


MASKED = ["no bias", "no output bias"]  # only masked layers take a mask


@pytest.mark.parametrize(
    ("kind", "change"), [*(("AffineCoupling", one) for one in REPLACED), *(("AffineAutoregressive", one) for one in MASKED)]
)
def test_a_part_replaced_in_a_network_is_called(kind, change):
    chain, x = pf.bijections.Chain([getattr(pf.bijections, kind)(4, (8,)), pf.bijections.Reverse(4)]), torch.randn(3, 4)
    for p in chain.parameters():
        torch.nn.init.normal_(p, std=0.4)
    before = chain(x)[0]
    REPLACED[change](chain.steps[0].net)
    z, log_abs_det = chain(x)
    assert not torch.allclose(z, before)
    torch.testing.assert_close(chain.inverse(z)[0], x, rtol=1e-4, atol=1e-5)
    with pf.fast.disabled():
        for one, other in zip(chain(x), (z, log_abs_det), strict=True):
            torch.testing.assert_close(one, other)
