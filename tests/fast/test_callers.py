"""A fast path may stand for methods of the object that asks for it; overridden, or replaced on a class or the object, they are called."""

import functools
import math

import pytest
import torch

import pushforward as pf

pytestmark = pytest.mark.usefixtures("float64")
B = pf.bijections


def _bent(own):
    """Return a method whose first tensor is bent."""

    def method(self, *args):
        found = own(self, *args)
        return (found[0] + 0.1 * found[0].sin(), *found[1:]) if isinstance(found, tuple) else found + 0.1 * found.sin()

    return method


def _overridden(thing, base, name, patch):
    thing.__class__ = type(f"Derived{type(thing).__name__}", (type(thing),), {name: _bent(getattr(base, name))})


def _on_the_object(thing, base, name, patch):
    own = getattr(type(thing), name)
    setattr(thing, name, lambda *args: _bent(own)(thing, *args))


def _on_the_class(thing, base, name, patch):
    patch.setattr(base, name, _bent(getattr(base, name)))


CALLERS = [
    pytest.param(lambda: B.AffineAutoregressive(4, (6,)), (3, 4), B.AffineAutoregressive.__mro__[1], "_solved", id="_solved"),
    pytest.param(lambda: B.SplineAutoregressive(4, 3, (6,)), (3, 4), B.AffineAutoregressive.__mro__[1], "params", id="params"),
    pytest.param(
        lambda: B.TransformerAutoregressive((1, 2, 4), 2, width=8, depth=1, heads=2),
        (3, 1, 2, 4),
        B.TransformerAutoregressive,
        "_sequential",
        id="_sequential",
    ),
]


@pytest.mark.parametrize("replace", [_overridden, _on_the_object, _on_the_class])
@pytest.mark.parametrize(("make", "shape", "base", "name"), CALLERS)
@pytest.mark.parametrize("chained", [False, True], ids=["alone", "in a chain"])
def test_a_method_for_which_a_fast_path_stands_is_called(make, shape, base, name, replace, chained, monkeypatch):
    step = make()
    for p in step.parameters():
        torch.nn.init.normal_(p, std=0.4)
    bijection, x = B.Chain([step]) if chained else step, torch.randn(shape)
    before = bijection.inverse(x)[0]
    replace(step, base, name, monkeypatch)
    found = bijection.inverse(x)[0]
    assert not torch.allclose(found, before)
    with pf.fast.disabled():
        torch.testing.assert_close(bijection.inverse(x)[0], found)


def _doubled(self, x, cond, inverse):
    """Return what a coupling returns, twice as large."""
    factor = 0.5 if inverse else 2.0
    x = x.having(*(factor * one for one in x.parts)) if inverse else x
    y, log_abs_det = B.AffineCoupling.__mro__[1].map_columns(self, x, cond, inverse)
    return y if inverse else y.having(*(factor * one for one in y.parts)), log_abs_det + 4 * math.log(factor)


@pytest.mark.parametrize("on", ["object", "subclass"])
def test_gradients_without_stored_activations_are_those_of_a_replaced_method(on):
    found = []
    for memory in ("full", "reversible"):
        torch.manual_seed(0)
        step = B.AffineCoupling(4, (6,), activation="tanh")
        if on == "object":
            step.map_columns = functools.partial(_doubled, step)
        else:
            step.__class__ = type("Doubled", (B.AffineCoupling,), {"map_columns": _doubled})
        chain, x = B.Chain([step, B.Reverse(4)], memory), torch.linspace(-1, 1, 12).view(3, 4).requires_grad_()
        z, log_abs_det = chain(x)
        found.append(torch.autograd.grad(z.sin().sum() + log_abs_det.sum(), [x, *chain.parameters()]))
        torch.testing.assert_close(chain.inverse(z)[0], x)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["forward", "inverse"])
def test_a_method_replaced_on_the_class_of_pixel_affine_steps_is_called(name, monkeypatch):
    chain, x = B.Chain([B.ImageActNorm(2), B.InvertibleConv(2)]), torch.randn(3, 2, 2, 2)
    call = chain if name == "forward" else chain.inverse
    before, base = call(x)[0], B.ImageActNorm.__mro__[1]
    monkeypatch.setattr(base, name, _bent(getattr(base, name)))
    found = call(x)[0]
    assert not torch.allclose(found, before)
    with pf.fast.disabled():
        torch.testing.assert_close(call(x)[0], found)
