"""A masked MLP evaluated feature by feature: units are sorted by degree, and a step computes those that its feature determines.

A block of steps shares one large product with the units known before it; each step adds the units computed within the block.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward._modes import values_alone


class Layer(NamedTuple):
    """A linear layer with its rows in order of computation; the rows of the output are the features, of k numbers each."""

    weight: Tensor  # (rows, inputs); of the output (k, features, inputs)
    bias: Tensor  # (rows, 1), or (rows, n) under a condition; of the output (k, features, 1)


class Product(NamedTuple):
    """The product of some rows of a layer with some of its columns."""

    layer: int
    rows: slice | int
    columns: slice


Act = Callable[[Tensor], Tensor]
Solve = Callable[[int, Any, Tensor | None], Tensor]
Cut = list[tuple[list[tuple[Product, Tensor]], list[tuple[Product, Tensor]]]]  # for each step: large and small products, with their weights


class Staircase:
    """Which rows of which layers each step computes, and from which columns.

    Args:
        sizes: for each hidden layer, how many rows step k computes. Step k uses the columns of x from
            steps before k, and the hidden units up to step k.
        block: steps that share a large product.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], block: int) -> None:
        self.sizes, self.block, features = [list(one) for one in sizes], block, len(sizes[0])
        self.widths = [features, *(sum(one) for one in sizes)]  # columns of x, and rows of each hidden layer
        # ends[i][k]: number of columns of layer i's input (last entry: rows of the output) computed by the steps before k
        ends = [[0, *itertools.accumulate(one)] for one in ([1] * features, *sizes, [1] * features)]
        layers, last = range(len(sizes) + 1), len(sizes)
        self.large: list[list[Product]] = []  # for each step: products with units known before its block
        self.small: list[list[Product]] = []  # for each step: products with units computed within the block
        for k in range(features):
            start, stop = k - k % block, min(k - k % block + block, features)
            found = [Product(i, slice(ends[i + 1][k], ends[i + 1][stop]), slice(0, ends[i][k])) for i in layers]
            self.large.append(found if k == start else [])
            rows: list[slice | int] = [*(slice(ends[i + 1][k], ends[i + 1][k + 1]) for i in range(last)), k]
            now = [ends[i][k if i == 0 else k + 1] for i in layers]
            self.small.append([Product(i, rows[i], slice(ends[i][start], now[i])) for i in layers if ends[i + 1][k] < ends[i + 1][k + 1]])
        self.kept: tuple[list[Tensor], Cut] | None = None

    def walk(self, layers: Sequence[Layer], act: Act, like: Tensor, solve: Solve) -> Tensor:
        """Return columns x (features, n), computed one feature at a time.

        Args:
            layers: the hidden layers and the output.
            act: activation of the hidden layers, which may overwrite its input.
            like: columns (any, n) of the required dtype and device.
            solve: called as solve(k, raw, out) with the k-th row of the output, a tensor (numbers, n), or a tuple of two rows if there are
                two; returns feature k (n,). It may write it into `out`, unless that is None.
        """
        if not values_alone():
            return self._joined(layers, act, like, solve)
        with torch.inference_mode():  # autograd's bookkeeping of views would be a fifth of the time
            x = self._written(layers, act, like, solve)
        return x.clone()

    def _written(self, layers: Sequence[Layer], act: Act, like: Tensor, solve: Solve) -> Tensor:
        """Write the columns of x and of every layer into one buffer each."""
        n, last = like.shape[1], len(layers) - 1
        known = [like.new_empty(width, n) for width in self.widths]  # x and hidden units
        output = like.new_empty(len(layers[last].weight), self.widths[0], n)
        owed = [*known[1:], output]
        slots = [*(one.split(sizes) for one, sizes in zip(owed, self.sizes, strict=False)), output.unbind(1)]
        raw: Sequence[Any] = slots[last]
        if len(output) == 2:  # unbind all steps in one call
            raw = list(zip(*(one.unbind() for one in output.unbind()), strict=True))
        made = known[0].unbind()
        for k, (large, small) in enumerate(self._cut([layer.weight for layer in layers])):
            for (i, rows, columns), weight in large:
                _product(layers[i].bias[..., rows, :], weight, known[i][columns], owed[i][..., rows, :])
            for (i, _, columns), weight in small:
                slot = slots[i][k]
                if columns.start < columns.stop:
                    slot.addmm_(weight, known[i][columns])
                if i < last:
                    active = act(slot)
                    if active is not slot:
                        slot.copy_(active)
            one = solve(k, raw[k], made[k])
            if one is not made[k]:
                made[k].copy_(one)
        return known[0]

    def _cut(self, weights: list[Tensor]) -> Cut:
        """Return each product with its part of a weight. These are views, valid as long as the weights keep their memory."""
        kept = self.kept  # read once: another thread may replace it
        if kept is None or not all(one.is_set_to(before) for one, before in zip(weights, kept[0], strict=True)):
            large, small = (
                [[(one, weights[one.layer][..., one.rows, one.columns]) for one in step] for step in steps]
                for steps in (self.large, self.small)
            )
            # Aliases: comparing a parameter with itself would not reveal that its memory was replaced.
            kept = self.kept = [one.detach() for one in weights], list(zip(large, small, strict=True))
        return kept[1]

    def _joined(self, layers: Sequence[Layer], act: Act, like: Tensor, solve: Solve) -> Tensor:
        """Concatenate the columns of x and of every layer as they are computed, so that gradients flow through them."""
        # Of x and of each hidden layer: columns known before the block, then those added by its steps.
        known = [[like.new_empty(0, like.shape[1])] for _ in layers]
        owed: list[Sequence[Tensor]] = []
        for k, (large, small) in enumerate(zip(self.large, self.small, strict=True)):
            if large:
                known = [[torch.cat(columns)] for columns in known]
                products = [
                    _product(layers[i].bias[..., rows, :], layers[i].weight[..., rows, columns], known[i][0]) for i, rows, columns in large
                ]
                owed = [one.split(sizes[k : k + self.block]) for one, sizes in zip(products, self.sizes, strict=False)]
                owed.append(products[-1].unbind(1))
            raw = like
            for i, rows, columns in small:
                raw, more = owed[i][k % self.block], columns.start < columns.stop
                if more:
                    raw = torch.addmm(raw, layers[i].weight[..., rows, columns], torch.cat(known[i][1:]))
                if i < len(layers) - 1:
                    # A piece of a split must not be modified in place, and act may do so.
                    known[i + 1].append(act(raw if more else raw.clone()))
            known[0].append(solve(k, raw.to(like.dtype), None)[None])
        return torch.cat(known[0])


def _product(bias: Tensor, weight: Tensor, known: Tensor, out: Tensor | None = None) -> Tensor:
    """Return bias + weight known for a weight (rows, inputs) or (k, rows, inputs)."""
    if weight.ndim == 2:
        return torch.addmm(bias, weight, known, out=out)
    return torch.baddbmm(bias, weight, known.expand(len(weight), *known.shape), out=out)
