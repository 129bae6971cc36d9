"""MADE: one network that predicts the parameters of every feature from the features before it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward.errors import UserError
from pushforward.nn.activation import Activation, activation_of
from pushforward.nn.constant import Constant
from pushforward.nn.coupling import checked_widths, dropout_of
from pushforward.nn.embedding import condition_embedding
from pushforward.registry import export


class MaskedLinear(nn.Module):
    """A linear map whose weight is multiplied by a mask of the same shape.

    It is not an `nn.Linear`, so that tools that replace those (LoRA) reject it by name: what they add would not be masked.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Linear(inputs, outputs).parameters()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return F.linear(x, self.weight * mask, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


@export("nn.MADE", example=lambda: (MADE(4, 2, (16, 16), classes=3), (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))))
class MADE(nn.Module):
    """An MLP whose weights are masked so that the outputs of feature k depend only on the features before k (and the condition).

        degree of feature k: k + 1;  hidden units: 1 to features - 1 (from 0 under a condition), rising
        a unit reads what has its degree or less, the outputs of feature k what has degree k or less

    Hidden units are sorted by degree, so that the masks are staircases.

    Shapes: x (n, features); the output is (n, features, outputs).

    Args:
        features: features per sample.
        outputs: parameters predicted for each feature.
        hidden: widths of the hidden layers.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None.
        dropout: fraction of hidden units dropped in training.

    Raises:
        UserError: features < 1, no hidden layer, an unknown activation, or dropout that is no share.
        ConditionError: a condition that the network was not built for, or a missing condition vector.

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
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if features < 1:
            raise UserError(f"features is {features}, but it must be at least 1.")
        widths = checked_widths(hidden)
        self.features, self.outputs = features, outputs
        self.act, self.dropout = activation_of(activation), dropout_of(dropout)
        self.layers: Any = nn.ModuleList(MaskedLinear(a, b) for a, b in zip([features, *widths], widths, strict=False))
        self.condition = condition_embedding(widths[0], classes, cond_features)
        self.out = MaskedLinear(widths[-1], outputs * features)  # row p * features + k: parameter p of feature k
        lowest = 0 if self.condition.conditional or features == 1 else 1
        self.degrees = tuple(_degrees(width, lowest, features - 1) for width in widths)
        self._masks = Constant(partial(_masks, features, outputs, self.degrees))
        self.masks(self.out.bias)  # cached before a compiler traces the forward pass

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        h, shift = x, self.condition(cond, x.shape[0])
        *masks, last = self.masks(x)
        for k, (layer, mask) in enumerate(zip(self.layers, masks, strict=True)):
            h = layer(h, mask)
            h = self.act(h if k or shift is None else h + shift)
            h = h if self.dropout is None else self.dropout(h)
        return self.out(h, last).view(x.shape[0], self.outputs, self.features).transpose(1, 2)

    def masks(self, like: Tensor) -> tuple[Tensor, ...]:
        """Return the masks of the hidden layers and of the output, in a tensor's dtype and on its device."""
        masks: tuple[Tensor, ...] = self._masks.like(like)
        return masks


def _degrees(width: int, lowest: int, highest: int) -> tuple[int, ...]:
    """Return rising degrees from lowest to highest, each about equally often; the highest always occurs, so that every input is used."""
    return tuple(min(highest, lowest + k * (highest - lowest + 1) // max(width - 1, 1)) for k in range(width))


def _masks(features: int, outputs: int, degrees: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
    below, masks = torch.arange(1, features + 1), []
    for degree in map(torch.tensor, degrees):
        masks.append(degree[:, None] >= below)
        below = degree
    # Inputs are the outermost axis in memory, and so also of the masked weights: for an output of few rows autograd then computes the
    # gradient by the transposed product, in half the time.
    last = torch.arange(features).repeat(outputs)[:, None] >= below
    return *masks, last.T.contiguous().T
