"""MADE on columns (features, n), and its inverse feature by feature: all steps together cost about one pass of the network."""

import math
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward.bijections.elementwise import Affine, Elementwise
from pushforward.dispatch import fast_way, known, reads_parts, unchanged
from pushforward.fast.coupling import has_layers, shifted_bias, with_dropout
from pushforward.fast.staircase import Layer, Solve, Staircase
from pushforward.functional.affine import undone_affine
from pushforward.nn.made import MADE, MaskedLinear

known(MaskedLinear, Affine)
reads_parts(MADE, has_layers(MaskedLinear))

_staircases: "weakref.WeakKeyDictionary[MADE, Staircase]" = weakref.WeakKeyDictionary()


@fast_way(MADE, "columns")
def columns(net: Any, x: Tensor, cond: Tensor | None = None) -> Tensor:
    """Return the parameters (outputs, features, n) of columns x (features, n)."""
    # `_modules` and `_parameters`: looking up an attribute of a Module costs a third of the time of a small kernel.
    h, act, n, modules = x, with_dropout(net), x.shape[1], net._modules
    out = modules["out"]._parameters
    *masks, last = net.masks(out["bias"])
    for layer, mask, bias in zip(modules["layers"]._modules.values(), masks, _biases(net, cond, n), strict=True):
        h = act(torch.addmm(bias, layer._parameters["weight"] * mask, h))
    return torch.addmm(out["bias"].unsqueeze(1), last * out["weight"], h).view(net.outputs, net.features, n)


@fast_way(MADE, "solved")
def solved(net: Any, z: Tensor, cond: Tensor | None, elementwise: Elementwise) -> tuple[Tensor, Tensor | None]:
    """Return columns x (features, n) whose transform is z, and the log-slopes dx/dz: one feature at a time."""
    for layer, mask in zip((*net.layers, net.out), net.masks(net.out.bias), strict=True):
        # The masks, which are not used, would decide of shapes and dtypes.
        if layer.weight.shape != mask.shape or layer.weight.dtype is not mask.dtype or layer.bias.shape != mask.shape[:1]:
            return NotImplemented
    rows, undo = z.unbind(), _undo_of(elementwise, z)
    slopes: list[Any] = []

    def solve(k: int, raw: Any, out: Tensor | None) -> Tensor:
        y, log_slope = undo(rows[k], raw, out)
        slopes.append(log_slope)
        return y

    x = walk(net, z, cond, solve)
    return x, None if slopes[0] is None else torch.stack(slopes)


def walk(net: Any, like: Tensor, cond: Tensor | None, solve: Solve) -> Tensor:
    """Return columns x (features, n), computed one feature at a time.

    Args:
        net: the network.
        like: columns (features, n) of the required dtype and device.
        cond: condition of each column, or None.
        solve: called as solve(k, raw, out) with the parameters of feature k, a tensor (outputs, n) or, if there are two, a tuple of two
            rows; returns that feature (n,). It may write it into `out`, unless that is None.
    """
    hidden = [Layer(layer.weight, bias) for layer, bias in zip(net.layers, _biases(net, cond, like.shape[1]), strict=True)]
    out = net.out
    last = Layer(out.weight.view(net.outputs, net.features, -1), out.bias.view(net.outputs, net.features, 1))
    return _staircase(net).walk([*hidden, last], with_dropout(net), like, solve)


def _undo_of(elementwise: Elementwise, like: Tensor) -> Callable[[Tensor, Any, Tensor | None], tuple[Tensor, Tensor | None]]:
    """Return the inverse as a function of (x, raw, out), with constants computed once; y may be written into `out`."""
    if type(elementwise) is not Affine or not unchanged(Affine):
        return lambda x, raw, out: elementwise(x, raw, True)
    bound, top = elementwise.bound, like.new_full((), elementwise.bound)
    return lambda x, raw, out: undone_affine(x, raw[0], raw[1], bound, top, out)


def _staircase(net: MADE) -> Staircase:
    if net not in _staircases:
        # As many units of a layer as have degree k become known with the k features before feature k.
        counts = [Counter(one) for one in net.degrees]
        sizes = [[count[k] for k in range(net.features)] for count in counts]
        _staircases[net] = Staircase(sizes, block=max(16, math.isqrt(net.features)))
    return _staircases[net]


def _biases(net: Any, cond: Tensor | None, n: int) -> list[Tensor]:
    """Return what is added to each hidden layer, as columns; the first one's is shifted by the condition."""
    layers, condition = net._modules["layers"]._modules.values(), net._modules["condition"]
    biases = [layer._parameters["bias"].unsqueeze(1) for layer in layers]
    if cond is not None or condition.conditional:
        first = net.layers[0]
        biases[0] = shifted_bias(first.bias, torch.promote_types(first.weight.dtype, net.out.bias.dtype), net, cond, n)
    return biases
