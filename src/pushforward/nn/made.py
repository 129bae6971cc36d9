"""MADE: one network that says the parameters of every feature from the features before it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.nn.coupling import Condition, activation_of, checked_widths, shifted_bias
from pushforward.nn.mlp import Activation
from pushforward.registry import export


@export("nn.MADE", example=lambda: (MADE(4, 2, (16, 16), classes=3), (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))))
class MADE(nn.Module):
    """An MLP whose weights are masked so that the outputs of feature k read only the features before k (and the condition).

        degree of feature k: k + 1;  hidden units: 1 to features - 1 (from 0 under a condition), rising
        a unit reads what has its degree or less, the outputs of feature k what has degree k or less

    Hidden units are sorted by degree, so that masks are staircases: `sequential` then walks along the features, computes in each step only
    the units that become known, and needs no mask; all steps together cost about one pass.

    Shapes: x (n, features); the value is (n, features, outputs).

    Args:
        features: numbers a sample.
        outputs: parameters that are said for each feature.
        hidden: widths of the hidden layers.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None.

    Raises:
        UserError: features < 1, no hidden layer, or an unknown activation.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Source: Germain, Gregor, Murray and Larochelle, MADE, 2015, arXiv 1502.03509, equations 8 and 9.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        hidden: Sequence[int] = (128, 128),
        *,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
    ) -> None:
        super().__init__()
        if features < 1:
            raise UserError(f"features is {features}, but it must be at least 1.")
        widths = checked_widths(hidden)
        self.features, self.outputs, self.act = features, outputs, activation_of(activation)
        self.layers: Any = nn.ModuleList(nn.Linear(a, b) for a, b in zip([features, *widths], widths, strict=False))
        self.condition = Condition(widths[0], classes, cond_features)
        self.out = nn.Linear(widths[-1], outputs * features)  # row p * features + k: parameter p of feature k
        lowest = 0 if self.condition.conditional or features == 1 else 1
        degrees = [_degrees(width, lowest, features - 1) for width in widths]
        # sizes[l][k]: how many units of layer l have degree k, and so become known with the k features before feature k
        self.sizes = [torch.bincount(one, minlength=features).tolist() for one in degrees]
        self.block = max(1, math.isqrt(features))  # steps of `sequential` that share a large product
        below = torch.arange(1, features + 1)
        for index, degree in enumerate(degrees):
            self.register_buffer(f"mask{index}", (degree[:, None] >= below).to(torch.get_default_dtype()), persistent=False)
            below = degree
        mask = torch.arange(features).repeat(outputs)[:, None] >= below
        self.register_buffer("mask_out", mask.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.columns(x.T, cond).permute(2, 1, 0)

    def columns(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the parameters (outputs, features, n) of columns x (features, n)."""
        h = x
        for index, (layer, bias) in enumerate(zip(self.layers, self._biases(cond), strict=True)):
            h = self.act(torch.addmm(bias, layer.weight * self.get_buffer(f"mask{index}"), h))
        out = torch.addmm(self.out.bias[:, None], self.out.weight * self.get_buffer("mask_out"), h)
        return out.view(self.outputs, self.features, x.shape[1])

    def _biases(self, cond: Tensor | None) -> list[Tensor]:
        """Return what is added to each hidden layer, as columns; the first one's is shifted by the condition."""
        first, *others = (layer.bias for layer in self.layers)
        return [shifted_bias(first, self.condition(cond)), *(bias[:, None] for bias in others)]

    def sequential(self, like: Tensor, cond: Tensor | None, solve: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return columns x (features, n) made one feature after another.

        Args:
            like: columns (features, n) of the dtype and device wanted.
            cond: condition of each column, or None.
            solve: called as solve(k, raw) with the parameters raw (outputs, 1, n) of feature k; returns that feature (1, n).
        """
        hidden = [
            _Rows(layer.weight, bias, sizes, like) for layer, bias, sizes in zip(self.layers, self._biases(cond), self.sizes, strict=True)
        ]
        weight, bias = (one.view(self.outputs, self.features, -1).transpose(0, 1).flatten(0, 1) for one in (self.out.weight, self.out.bias))
        out = _Rows(weight, bias, [self.outputs] * self.features, like)
        x = _Known([1] * self.features, like)
        for k in range(self.features):
            if k % self.block == 0:
                known = x
                for rows in (*hidden, out):
                    rows.open(known, k, k + self.block)
                    known = rows.known
            known = x
            for rows in hidden:
                rows.known.add(self.act(rows.step(known)), k)
                known = rows.known
            x.add(solve(k, out.step(known)[:, None]), k)
        return x.all()


class _Known:
    """Columns that become known a few at a time: written into one buffer, or joined where gradients must flow through them.

    Args:
        sizes: how many columns each step brings.
        like: columns (any, n) of the dtype and device wanted.
    """

    def __init__(self, sizes: Sequence[int], like: Tensor) -> None:
        self.buffer = None if torch.is_grad_enabled() else like.new_empty(sum(sizes), like.shape[1])
        self.slots = None if self.buffer is None else self.buffer.split(list(sizes))
        self.before = like.new_empty(0, like.shape[1])  # the columns that were known before the block of steps
        self.fresh: Tensor | None = None  # those that the block has brought

    def all(self) -> Tensor:
        """Return all columns so far, and begin a block of steps."""
        if self.fresh is not None:
            count = self.before.shape[0] + self.fresh.shape[0]
            self.before = torch.cat((self.before, self.fresh)) if self.buffer is None else self.buffer.narrow(0, 0, count)
            self.fresh = None
        return self.before

    def add(self, columns: Tensor, k: int) -> None:
        """Take the columns of step k; in a buffer they may stand where they belong already."""
        if self.buffer is None or self.slots is None:
            self.fresh = columns if self.fresh is None else torch.cat((self.fresh, columns))
            return
        if columns is not self.slots[k]:
            self.slots[k].copy_(columns)
        count = columns.shape[0] + (0 if self.fresh is None else self.fresh.shape[0])
        self.fresh = self.buffer.narrow(0, self.before.shape[0], count)


class _Rows:
    """A linear layer whose rows are computed a few at a time, as what they read becomes known.

    What a block of rows owes to what is known before it is one large product; each step then adds what became known within the block.

    Args:
        weight: (rows, inputs), of which each row reads what is known at its step.
        bias: (rows, 1), or (rows, n) for a condition.
        sizes: how many rows each step computes.
        like: columns (any, n) of the dtype and device wanted.
    """

    def __init__(self, weight: Tensor, bias: Tensor, sizes: Sequence[int], like: Tensor) -> None:
        self.weight, self.bias, self.sizes = weight, bias, sizes
        self.known = _Known(sizes, like)

    def open(self, inputs: _Known, start: int, stop: int) -> None:
        """Begin the block of the steps from start to stop."""
        columns, sizes, done = inputs.all(), self.sizes[start:stop], sum(self.sizes[:start])
        count, self.inputs = sum(sizes), columns.shape[0]
        weight = self.weight.narrow(0, done, count)
        slot = None if self.known.buffer is None else self.known.buffer.narrow(0, done, count)
        owed = torch.addmm(self.bias.narrow(0, done, count), weight.narrow(1, 0, self.inputs), columns, out=slot)
        pieces = owed.split(sizes) if self.known.slots is None else self.known.slots[start:stop]
        self.steps = zip(pieces, weight.split(sizes), strict=True)

    def step(self, inputs: _Known) -> Tensor:
        """Return the rows of the next step."""
        owed, weight = next(self.steps)
        if inputs.fresh is None:
            return owed.clone() if self.known.buffer is None else owed  # autograd wants no piece of a split changed in place
        weight = weight.narrow(1, self.inputs, inputs.fresh.shape[0])
        return torch.addmm(owed, weight, inputs.fresh) if self.known.buffer is None else owed.addmm_(weight, inputs.fresh)


def _degrees(width: int, lowest: int, highest: int) -> Tensor:
    """Return rising degrees from lowest to highest, each about equally often; the highest is always there, so that every input is read."""
    return (lowest + torch.arange(width) * (highest - lowest + 1) // max(width - 1, 1)).clamp(max=highest)
