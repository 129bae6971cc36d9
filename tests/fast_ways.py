"""The fast paths, each with a module that takes it, and what may be done to the parts of a module."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward import dispatch
from pushforward.bijections.pixels import PixelAffines


@dataclass(frozen=True)
class Way:
    """A module that takes a fast path, and calls of it that return tensors."""

    make: Callable[[], nn.Module]
    call: Callable[[nn.Module], list[Tensor]]
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-9


def _x(*shape: int) -> Tensor:
    """Return numbers of size 1 or so; no random ones, which vmap refuses."""
    return (1.5 * (1.7 * torch.arange(math.prod(shape))).sin()).to(torch.get_default_dtype()).view(shape)


def _mlp(**options: Any) -> nn.Module:
    return pf.nn.MLP(4, 4, (6, 5), time_features=4, classes=3, **options)


LABELS = torch.tensor([0, 2, 1])


def _evaluated(net: Any, **numbers: Any) -> list[Tensor]:
    x, t = _x(3, 4), torch.tensor([0.2, 0.2, 0.7])
    with torch.no_grad():
        values = [net(x, t, LABELS, **numbers), net(x, t[:1].expand(3), LABELS, **numbers), net(x, t, **numbers)]
    return [*values, *_differentiated(lambda x: net(x, t, LABELS, **numbers), x)]


def _differentiated(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Return a value and the gradient by its input; nothing where vmap maps, which autograd does not see through."""
    if torch._C._functorch.maybe_current_level() is not None:
        return []
    given = x.clone().requires_grad_()
    y = function(given)
    gradient = torch.autograd.grad(y.sin().sum(), given)[0]
    _unwritten(given, x)
    return [y.detach(), gradient]


class Overwritten(Exception):
    """The caller's tensor was written to."""


def _unwritten(x: Tensor, before: Tensor) -> None:
    if not torch.equal(x, before):
        raise Overwritten


def _prepared(net: Any) -> list[Tensor]:
    x, t = _x(3, 4), torch.full((3,), 0.5)
    with torch.no_grad():
        prepared = dispatch.preparer(net)
        field = net if prepared is None else prepared(times=[0.5])
        return [field(x, t, LABELS), field(x, t), *field.value_and_divergence(x, t, LABELS)]


def _divergence(net: Any) -> list[Tensor]:
    x, t = _x(3, 4), torch.tensor([0.2, 0.2, 0.7])
    with torch.no_grad():
        values = list(net.value_and_divergence(x, t, LABELS))
    return [*values, *_differentiated(lambda x: net.value_and_divergence(x, t)[1], x)]


def _both(bijection: Any, x: Tensor, cond: Any = None) -> list[Tensor]:
    before = x.clone()
    with torch.no_grad():
        z, log_abs_det = bijection(x, cond)
        values = [z, log_abs_det, *bijection.inverse(x, cond)]
    _unwritten(x, before)
    return [*values, *_differentiated(lambda x: bijection(x, cond)[0], x), *_differentiated(lambda x: bijection.inverse(x, cond)[0], x)]


def _chain() -> nn.Module:
    b = pf.bijections
    steps = [b.ActNorm(4), b.AffineCoupling(4, (6, 5), dropout=0.5), b.Permutation([2, 0, 3, 1]), b.AffineAutoregressive(4, (6,))]
    return b.Chain([*steps, b.LULinear(4), b.SplineCoupling(4, 3, (6,), swap=True)])


def _pixels() -> nn.Module:
    b = pf.bijections
    return b.Chain([b.ImageActNorm(4), b.InvertibleConv(4), b.ImageCoupling(4, 5), b.InvertibleConv(4, "householder"), b.ImageActNorm(4)])


def _mmdit(**options: Any) -> Callable[[], nn.Module]:
    sizes: dict[str, Any] = {"patch": 2, "depth": 2, "heads": 2, "head_width": 8, "context_width": 6, "pooled_width": 5}
    return lambda: pf.nn.MMDiT((2, 4, 4), **sizes, positions=4, base_size=2, mlp_ratio=2, null_tokens=3, **options)


def _of_text(net: Any) -> list[Tensor]:
    text = pf.TextContext(_x(2, 3, 6), _x(2, 5))
    x, t = _x(2, 2, 4, 4), torch.tensor([0.3, 0.8])
    before = x.clone()
    with torch.no_grad():
        found = [net(x, t, text), net(x, t)]
    _unwritten(x, before)
    return found


def _coupled(kind: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(pf.bijections, kind)(4, **options)


WAYS: dict[tuple[type, str], dict[str, Way]] = {
    (pf.nn.MLP, "forward"): {
        "time": Way(_mlp, _evaluated),
        "bare": Way(lambda: pf.nn.MLP(4, 4, (6, 5)), lambda net: [net(_x(3, 4)), *_differentiated(net, _x(3, 4))]),
        "numbers": Way(lambda: _mlp(numbers=1), lambda net: _evaluated(net, r=torch.tensor([0.1, 0.2, 0.3]))),
    },
    (pf.nn.MLP, "value_and_divergence"): {"": Way(_mlp, _divergence)},
    (pf.nn.MLP, "prepared"): {"": Way(_mlp, _prepared)},
    (type(pf.bijections.AffineCoupling(2).net), "columns"): {
        "": Way(_coupled("AffineCoupling", hidden=(6, 5), classes=3), lambda step: _both(step, _x(3, 4), LABELS)),
    },
    (pf.nn.MADE, "columns"): {"": Way(_coupled("AffineAutoregressive", hidden=(6, 6)), lambda step: _both(step, _x(3, 4)))},
    (pf.nn.MADE, "solved"): {
        "affine": Way(_coupled("AffineAutoregressive", hidden=(6, 6), classes=3), lambda step: _both(step, _x(3, 4), LABELS)),
        "spline": Way(_coupled("SplineAutoregressive", bins=3, hidden=(6,)), lambda step: _both(step, _x(3, 4))),
    },
    (pf.bijections.Chain, "through"): {"": Way(_chain, lambda chain: _both(chain, _x(3, 4)))},
    (type(pf.bijections.ImageCoupling(2, 2).net), "hidden"): {
        "": Way(_coupled("ImageCoupling", hidden=5, classes=3), lambda step: _both(step, _x(3, 4, 2, 2), LABELS)),
    },
    (pf.nn.CausalTransformer, "sequential"): {
        "": Way(
            lambda: pf.bijections.TransformerAutoregressive((1, 4, 4), 2, width=8, depth=2, heads=2, classes=3),
            lambda step: _both(step, _x(3, 1, 4, 4), LABELS),
        ),
    },
    (pf.nn.MMDiT, "through_blocks"): {
        "3": Way(_mmdit(qk_norm=False), _of_text, torch.float32, 1e-4),
        "3.5": Way(_mmdit(qk_norm=True, dual=1), _of_text, torch.float32, 1e-4),
        "wide": Way(_mmdit(qk_norm=True, dual=2), _of_text),
    },
    (PixelAffines, "affine"): {"": Way(_pixels, lambda chain: _both(chain, _x(3, 4, 2, 2)))},
}


def registered_ways() -> set[tuple[type, str]]:
    """Return all fast paths, of all pages."""
    for kind in WAYS:
        dispatch._import_page(kind[0])
    return set(dispatch._ways) | {key for ways in dispatch._registered.values() for key in ways}


def made(way: Way) -> nn.Module:
    """Return a module with parameters away from where they start, so that every part counts."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(way.dtype)
    try:
        torch.manual_seed(3)
        module = way.make()
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.3 * torch.randn_like(p))
        return module.eval()
    finally:
        torch.set_default_dtype(before)
