"""A masked MLP walked along its features: units are sorted by degree, and a step computes those that its feature makes known.

A block of steps shares one large product with what was known before it; each step adds what became known within the block.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward._modes import values_alone


class Layer(NamedTuple):
    """A linear layer with rows in the order in which they become known."""

    weight: Tensor  # (rows, inputs)
    bias: Tensor  # (rows, 1), or (rows, n) under a condition


class Product(NamedTuple):
    """A product of some rows of a layer with some of its columns."""

    layer: int
    rows: slice
    columns: slice


Act = Callable[[Tensor], Tensor]
Solve = Callable[[int, Any], Tensor]


class Staircase:
    """Which rows of which layers each step of a walk computes, and from which columns.

    Args:
        sizes: for each layer, the output among them, how many rows step k computes. Of x and of what a layer says, step k reads what the
            steps before k, and for hidden units step k itself, have made known.
        block: steps that share a large product.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], block: int) -> None:
        self.sizes, self.block, features = [list(one) for one in sizes], block, len(sizes[0])
        self.widths = [features, *(sum(one) for one in sizes)]  # columns of x, and rows of each layer
        # ends[i][k]: columns of layer i's input that the steps before k have made known
        ends = [[0, *itertools.accumulate(one)] for one in ([1] * features, *sizes)]
        layers = range(len(sizes))
        self.large: list[list[Product]] = []  # of each step: those with what was known before its block
        self.small: list[list[Product]] = []  # of each step: those with what became known within it
        for k in range(features):
            start, stop = k - k % block, min(k - k % block + block, features)
            found = [Product(i, slice(ends[i + 1][k], ends[i + 1][stop]), slice(0, ends[i][k])) for i in layers]
            self.large.append(found if k == start else [])
            now = [ends[i][k if i == 0 else k + 1] for i in layers]
            self.small.append([Product(i, slice(ends[i + 1][k], ends[i + 1][k + 1]), slice(ends[i][start], now[i])) for i in layers])

    def walk(self, layers: Sequence[Layer], act: Act, like: Tensor, solve: Solve) -> Tensor:
        """Return columns x (features, n) made one feature after another.

        Args:
            layers: the hidden layers and the output.
            act: activation of the hidden layers, which may overwrite its input.
            like: columns (any, n) of the dtype and device wanted.
            solve: called as solve(k, said) with the rows of the last layer, a tensor (rows of step k, n), or a tuple of two rows where
                there are two; returns feature k (n,).
        """
        if torch.is_grad_enabled():
            return self._joined(layers, act, like, solve)
        if not values_alone():
            return self._written(layers, act, like, solve)
        with torch.inference_mode():  # autograd's bookkeeping of views would be a fifth of the time
            x = self._written(layers, act, like, solve)
        return x.clone()

    def _written(self, layers: Sequence[Layer], act: Act, like: Tensor, solve: Solve) -> Tensor:
        """Write the columns of x and of every layer into one buffer each."""
        buffers = [like.new_empty(width, like.shape[1]) for width in self.widths]
        slots = [buffer.split(sizes) for buffer, sizes in zip(buffers[1:], self.sizes, strict=True)]
        rows = [layer.weight.split(sizes) for layer, sizes in zip(layers, self.sizes, strict=True)]
        made, last = buffers[0].unbind(), len(layers) - 1
        said: Sequence[Any] = slots[last]
        if set(self.sizes[last]) == {2}:  # cut all at once
            said = list(zip(*(one.unbind() for one in buffers[-1].unflatten(0, (-1, 2)).unbind(1)), strict=True))
        for k, (large, small) in enumerate(zip(self.large, self.small, strict=True)):
            for i, own, columns in large:
                layer = layers[i]
                torch.addmm(layer.bias[own], layer.weight[own, columns], buffers[i][columns], out=buffers[i + 1][own])
            for i, own, columns in small:
                if own.start == own.stop:
                    continue
                slot = slots[i][k]
                if columns.start < columns.stop:
                    slot.addmm_(rows[i][k][:, columns], buffers[i][columns])
                if i < last:
                    active = act(slot)
                    if active is not slot:
                        slot.copy_(active)
            made[k].copy_(solve(k, said[k]))
        return buffers[0]

    def _joined(self, layers: Sequence[Layer], act: Act, like: Tensor, solve: Solve) -> Tensor:
        """Join the columns of x and of every layer as they become known, so that gradients flow through them."""
        # Of x and of each hidden layer: what was known before the block, then what its steps have added.
        known = [[like.new_empty(0, like.shape[1])] for _ in layers]
        owed: list[Sequence[Tensor]] = []
        for k, (large, small) in enumerate(zip(self.large, self.small, strict=True)):
            if large:
                known = [[torch.cat(columns)] for columns in known]
                products = [torch.addmm(layers[i].bias[own], layers[i].weight[own, columns], known[i][0]) for i, own, columns in large]
                owed = [one.split(sizes[k : k + self.block]) for one, sizes in zip(products, self.sizes, strict=True)]
            said = like
            for i, own, columns in small:
                said, more = owed[i][k % self.block], columns.start < columns.stop
                if more:
                    said = torch.addmm(said, layers[i].weight[own, columns], torch.cat(known[i][1:]))
                if i < len(layers) - 1:
                    # A piece of a split may not be changed in place, and act may do that.
                    known[i + 1].append(act(said if more else said.clone()))
            known[0].append(solve(k, said.to(like.dtype))[None])
        return torch.cat(known[0])
