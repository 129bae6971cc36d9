"""A masked MLP walked along its features: units are sorted by degree, and a step computes those that its feature makes known.

A block of steps shares one large product with what was known before it; each step adds what became known within the block.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Layer(NamedTuple):
    """A linear layer with rows in the order in which they become known."""

    weight: Tensor  # (rows, inputs)
    bias: Tensor  # (rows, 1), or (rows, n) under a condition
    sizes: Sequence[int]  # how many rows step k computes


Act = Callable[[Tensor], Tensor]
Solve = Callable[[int, Tensor], Tensor]


def walk(layers: Sequence[Layer], act: Act, block: int, like: Tensor, solve: Solve) -> Tensor:
    """Return columns x (features, n) made one feature after another.

    Args:
        layers: the hidden layers and the output; of x and of what a layer says, step k reads what the steps before k, and for hidden units
            step k itself, have made known.
        act: activation of the hidden layers, which may overwrite its input.
        block: steps that share a large product.
        like: columns (any, n) of the dtype and device wanted.
        solve: called as solve(k, said) with the rows of the last layer (rows of step k, n); returns feature k (n,).
    """
    if torch.is_grad_enabled():
        return _joined(layers, act, block, like, solve)
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return _written(layers, act, block, like, solve)
    with torch.inference_mode():  # autograd's bookkeeping of views would be a fifth of the time
        x = _written(layers, act, block, like, solve)
    return x.clone()


def _written(layers: Sequence[Layer], act: Act, block: int, like: Tensor, solve: Solve) -> Tensor:
    """Write the columns of x and of every layer into one buffer each."""
    features = len(layers[0].sizes)
    sizes = [[1] * features, *(layer.sizes for layer in layers)]
    ends = [[0, *itertools.accumulate(one)] for one in sizes]  # ends[i][k]: columns that the steps before k have made known
    buffers = [like.new_empty(one[-1], like.shape[1]) for one in ends]
    slots = [buffer.split(one) for buffer, one in zip(buffers[1:], sizes[1:], strict=True)]
    made = buffers[0].unbind()
    rows = [layer.weight.split(layer.sizes) for layer in layers]
    before = [0] * len(layers)  # columns that the large product has read
    for k in range(features):
        if k % block == 0:
            for i, layer in enumerate(layers):
                before[i], start = ends[i][k], ends[i + 1][k]
                count = ends[i + 1][min(k + block, features)] - start
                weight = layer.weight.narrow(0, start, count).narrow(1, 0, before[i])
                columns = buffers[i].narrow(0, 0, before[i])
                torch.addmm(layer.bias.narrow(0, start, count), weight, columns, out=buffers[i + 1].narrow(0, start, count))
        for i in range(len(layers)):
            slot, fresh = slots[i][k], ends[i][k if i == 0 else k + 1] - before[i]
            if fresh and sizes[i + 1][k]:
                slot.addmm_(rows[i][k].narrow(1, before[i], fresh), buffers[i].narrow(0, before[i], fresh))
            if i < len(layers) - 1:
                active = act(slot)
                if active is not slot:
                    slot.copy_(active)
        made[k].copy_(solve(k, slots[-1][k]))
    return buffers[0]


def _joined(layers: Sequence[Layer], act: Act, block: int, like: Tensor, solve: Solve) -> Tensor:
    """Join the columns of x and of every layer as they become known, so that gradients flow through them."""
    features = len(layers[0].sizes)
    starts = [[0, *itertools.accumulate(layer.sizes)] for layer in layers]
    known = [[like.new_empty(0, like.shape[1])] for _ in layers]  # of x and of each hidden layer: what was before the block, then its steps
    before: list[int] = []
    owed: list[Sequence[Tensor]] = []
    for k in range(features):
        if k % block == 0:
            known = [[torch.cat(columns)] for columns in known]
            before = [columns[0].shape[0] for columns in known]
            owed = []
            for layer, start, (columns,) in zip(layers, starts, known, strict=True):
                own = slice(start[k], start[min(k + block, features)])
                product = torch.addmm(layer.bias[own], layer.weight[own, : columns.shape[0]], columns)
                owed.append(product.split(list(layer.sizes[k : k + block])))
        said = like
        for i, layer in enumerate(layers):
            said = owed[i][k % block]
            if len(known[i]) > 1:
                fresh = torch.cat(known[i][1:])
                said = torch.addmm(said, layer.weight[starts[i][k] : starts[i][k + 1], before[i] : before[i] + fresh.shape[0]], fresh)
            if i < len(layers) - 1:
                # A piece of a split may not be changed in place, and act may do that.
                known[i + 1].append(act(said if len(known[i]) > 1 else said.clone()))
        known[0].append(solve(k, said)[None])
    return torch.cat(known[0])
