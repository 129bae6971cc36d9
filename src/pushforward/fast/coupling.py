"""The network inside a coupling on columns (features, n): one layout throughout, as operations that mix layouts take far longer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.dispatch import fast_way, known, reads_parts
from pushforward.fast.parts import CONDITIONS, ELEMENTWISE, returns_rows
from pushforward.nn.coupling import CouplingNet

known(*CONDITIONS, nn.Dropout)


def has_layers(kind: type[nn.Module]) -> Callable[[Any], bool]:
    """Return a check that a network's layers are of exactly this type, its activation elementwise and its condition an embedding.

    Columns are transposed: an activation that reads more than one element, such as softmax, would read others.
    """

    def check(net: Any) -> bool:  # no calls: it runs for every layer of a flow
        state, modules = net.__dict__, net._modules
        for layer in (*modules["layers"]._modules.values(), modules["out"]):
            if type(layer) is not kind:
                return False
            held = layer._parameters
            if "weight" not in held or held.get("bias") is None:
                return False
        if state.get("act") not in ELEMENTWISE:
            return False
        condition = modules.get("condition")
        if type(condition) not in CONDITIONS or (condition.conditional and not _fits(net, condition)):
            return False
        return state.get("dropout") is None and ("dropout" not in modules or type(modules["dropout"]) is nn.Dropout)

    return check


def _fits(net: Any, condition: Any) -> bool:
    """Return whether the shift by the condition has the width of the first layer, which it is added to."""
    first = next(iter(net.layers), None)
    return first is not None and returns_rows(condition, first.bias.numel())


reads_parts(CouplingNet, has_layers(nn.Linear))


@fast_way(CouplingNet, "columns")
def columns(net: Any, a: Tensor, cond: Tensor | None = None) -> Tensor:
    """Return the parameters as columns (outputs, n) for columns a (inputs, n)."""
    # `_modules` and `_parameters`: looking up an attribute of a Module costs a third of the time of a small kernel.
    modules, act = net._modules, with_dropout(net)
    first, *others = modules["layers"]._modules.values()
    held, out = first._parameters, modules["out"]._parameters
    h = act(torch.addmm(shifted_bias(held["bias"], held["weight"].dtype, net, cond, a.shape[1]), held["weight"], a))
    for layer in others:
        held = layer._parameters
        h = act(torch.addmm(held["bias"].unsqueeze(1), held["weight"], h))
    return torch.addmm(out["bias"].unsqueeze(1), out["weight"], h)


def overwriting(net: Any) -> Callable[[Tensor], Tensor]:
    """Return a network's activation, which may overwrite its input: in-place relu takes half the time."""
    return torch.relu_ if net.act is torch.relu else net.act


def with_dropout(net: Any) -> Callable[[Tensor], Tensor]:
    """Return the activation of a network that may drop hidden units, and its dropout."""
    act = overwriting(net)
    return act if net.dropout is None else lambda h: net.dropout(act(h))


def shifted_bias(bias: Tensor, dtype: torch.dtype, net: Any, cond: Tensor | None, n: int) -> Tensor:
    """Return a layer's bias plus the network's shift by the condition, as columns (width, n), or (width, 1) if it is the same for all.

    A bias of another dtype than the layer's weight is returned as it is, for the product to refuse: a sum may have the right one.
    """
    condition = net._modules["condition"]
    shift = condition(cond, n) if cond is not None or condition.conditional else None
    if shift is None or bias.dtype is not dtype:
        return bias.unsqueeze(1)
    return ((shift if cond is not None else shift[:1]) + bias).T
