"""MADE: one network that says the parameters of every feature from the features before it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.nn.coupling import Condition, activation_of, checked_widths, shifted_bias
from pushforward.nn.mlp import Activation
from pushforward.nn.staircase import Layer, Solve, Staircase
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
        # As many units of a layer as have degree k become known with the k features before feature k.
        sizes = [torch.bincount(one, minlength=features).tolist() for one in degrees]
        self.staircase = Staircase(sizes, block=max(8, math.isqrt(features)))
        below = torch.arange(1, features + 1)
        for index, degree in enumerate(degrees):
            self.register_buffer(f"mask{index}", (degree[:, None] >= below).to(torch.get_default_dtype()), persistent=False)
            below = degree
        # Inputs outermost, and multiplied first, so that the masked weights are so too: for the few rows of an output autograd then takes
        # their gradient by the transposed product, in half the time.
        mask = torch.arange(features).repeat(outputs)[:, None] >= below
        self.register_buffer("mask_out", mask.to(torch.get_default_dtype()).T.contiguous().T, persistent=False)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.columns(x.T, cond).permute(2, 1, 0)

    def columns(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the parameters (outputs, features, n) of columns x (features, n)."""
        layers, out, h = [*self.layers], self.out, x
        masks: list[Any] = list(self._buffers.values())
        for layer, mask, bias in zip(layers, masks[:-1], self._biases(layers, cond), strict=True):
            h = self.act(torch.addmm(bias, layer.weight * mask, h))
        return torch.addmm(out.bias.unsqueeze(1), masks[-1] * out.weight, h).view(self.outputs, self.features, x.shape[1])

    def _biases(self, layers: list[Any], cond: Tensor | None) -> list[Tensor]:
        """Return what is added to each hidden layer, as columns; the first one's is shifted by the condition."""
        biases, condition = [layer.bias.unsqueeze(1) for layer in layers], self.condition
        if cond is not None or condition.conditional:
            biases[0] = shifted_bias(layers[0].bias, condition(cond))
        return biases

    def sequential(self, like: Tensor, cond: Tensor | None, solve: Solve) -> Tensor:
        """Return columns x (features, n) made one feature after another.

        Args:
            like: columns (features, n) of the dtype and device wanted.
            cond: condition of each column, or None.
            solve: called as solve(k, raw, out) with the parameters of feature k, a tensor (outputs, n) or, where there are two, a tuple of
                two rows; returns that feature (n,), in `out` if it likes, which may be None.
        """
        layers, out = [*self.layers], self.out
        hidden = [Layer(layer.weight, bias) for layer, bias in zip(layers, self._biases(layers, cond), strict=True)]
        last = Layer(out.weight.view(self.outputs, self.features, -1), out.bias.view(self.outputs, self.features, 1))
        return self.staircase.walk([*hidden, last], self.act, like, solve)


def _degrees(width: int, lowest: int, highest: int) -> Tensor:
    """Return rising degrees from lowest to highest, each about equally often; the highest is always there, so that every input is read."""
    return (lowest + torch.arange(width) * (highest - lowest + 1) // max(width - 1, 1)).clamp(max=highest)
