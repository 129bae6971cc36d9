"""The network inside a coupling on columns (features, n): one layout throughout, as operations that mix layouts take far longer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.dispatch import fast_way, known
from pushforward.nn.coupling import CouplingNet
from pushforward.nn.embedding import LabelEmbedding, VectorEmbedding

known(LabelEmbedding, VectorEmbedding, nn.Dropout)


@fast_way(CouplingNet, "columns")
def columns(net: Any, a: Tensor, cond: Tensor | None = None) -> Tensor:
    """Return the parameters as columns (outputs, n) for columns a (inputs, n)."""
    first, *others = net.layers
    act = with_dropout(net)
    h = act(torch.addmm(shifted_bias(first.bias, net, cond, a.shape[1]), first.weight, a))
    for layer in others:
        h = act(torch.addmm(layer.bias.unsqueeze(1), layer.weight, h))
    return torch.addmm(net.out.bias.unsqueeze(1), net.out.weight, h)


def overwriting(net: Any) -> Callable[[Tensor], Tensor]:
    """Return a network's activation, which may overwrite its input: in-place relu takes half the time."""
    return torch.relu_ if net.act is torch.relu else net.act


def with_dropout(net: Any) -> Callable[[Tensor], Tensor]:
    """Return the activation of a network that may drop hidden units, and its dropout."""
    act = overwriting(net)
    return act if net.dropout is None else lambda h: net.dropout(act(h))


def shifted_bias(bias: Tensor, net: Any, cond: Tensor | None, n: int) -> Tensor:
    """Return a layer's bias plus the network's shift by the condition, as columns (width, n), or (width, 1) if it is the same for all."""
    shift = net.condition(cond, n)
    if shift is None:
        return bias.unsqueeze(1)
    return ((shift if cond is not None else shift[:1]) + bias).T
