"""The network inside a coupling: reads one half of the features as columns (features, n), says the parameters of the other as columns."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.errors import ConditionError, UserError
from pushforward.nn.embedding import LabelEmbedding
from pushforward.nn.mlp import ACTIVATIONS, Activation


class Condition(nn.Module):
    """What a condition adds to the first hidden layer: a learned row for each label, or a linear map of a vector.

    Labels have one more row than classes, the null row, which stands for no condition; a vector cannot be left out.

    Args:
        width: units of the hidden layer.
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None; not both.

    Raises:
        ConditionError: both kinds are asked for; a condition is given that the network was not built for, or is missing.
    """

    def __init__(self, width: int, classes: int | None, cond_features: int | None) -> None:
        super().__init__()
        if classes is not None and cond_features is not None:
            raise ConditionError(
                f"classes is {classes} and cond_features is {cond_features}, but a condition is labels or vectors; give one of them."
            )
        self.label = None if cond_features is not None else LabelEmbedding(classes, width)
        self.vector = None if cond_features is None else nn.Linear(cond_features, width, bias=False)
        self.conditional = classes is not None or cond_features is not None  # whether a condition is read at all

    def forward(self, cond: Tensor | None) -> Tensor | None:
        """Return what is added: rows (n, width), one row (width,) for all, or None."""
        if self.vector is not None:
            if cond is None:
                raise ConditionError(
                    f"this flow reads condition vectors of length {self.vector.in_features}, but cond is None; give one a row."
                )
            return self.vector(cond)
        assert self.label is not None
        if cond is None:
            row = self.label(None, 1)
            return None if row is None else row[0]
        return self.label(cond, len(cond))


class CouplingNet(nn.Module):
    """An MLP from columns (inputs, n) to columns (outputs, n), whose condition shifts the first hidden layer.

    Everything in between is columns too: operations on two layouts at once would take several times as long.

    Args:
        inputs: features that are read.
        outputs: numbers that are said.
        hidden: widths of the hidden layers.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
    ) -> None:
        super().__init__()
        widths = checked_widths(hidden)
        self.act = activation_of(activation)
        self.layers: Any = nn.ModuleList(nn.Linear(a, b) for a, b in zip([inputs, *widths], widths, strict=False))
        self.condition = Condition(widths[0], classes, cond_features)
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, a: Tensor, cond: Tensor | None = None) -> Tensor:
        first, *others = self.layers
        h = self.act(torch.addmm(shifted_bias(first.bias, self.condition(cond)), first.weight, a))
        for layer in others:
            h = self.act(torch.addmm(layer.bias.unsqueeze(1), layer.weight, h))
        return torch.addmm(self.out.bias.unsqueeze(1), self.out.weight, h)


def shifted_bias(bias: Tensor, shift: Tensor | None) -> Tensor:
    """Return a bias as columns (width, 1), or (width, n) under a condition's shift by rows; the shift may be one row for all, or None."""
    if shift is None or shift.ndim == 1:
        return (bias if shift is None else bias + shift)[:, None]
    return (shift + bias).T


def checked_widths(hidden: Sequence[int]) -> list[int]:
    """Return the widths of hidden layers, or refuse what are none."""
    if not hidden or min(hidden) < 1:
        raise UserError(f"hidden is {tuple(hidden)}, but the network needs at least one hidden layer of at least 1 unit; try (128, 128).")
    return list(hidden)


def activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return an activation for the output of a linear layer, which it may overwrite: relu does, for half the time."""
    if name not in ACTIVATIONS:
        raise UserError(f"activation is {name!r}, but it is one of {', '.join(ACTIVATIONS)}.")
    return torch.relu_ if name == "relu" else ACTIVATIONS[name].value
