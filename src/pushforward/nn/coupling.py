"""The network inside a coupling: it receives one half of the features and predicts the parameters of the other."""

from collections.abc import Sequence

from torch import Tensor, nn

from pushforward.errors import ConditionError, UserError
from pushforward.nn.activation import Activation, activation_of
from pushforward.nn.embedding import LabelEmbedding


class Condition(nn.Module):
    """The condition's shift of the first hidden layer: a learned row for each label, or a linear map of a vector.

    For labels there is one row more than classes, the null row, used when there is no condition; a condition vector is required.

    Args:
        width: units of the hidden layer.
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None; not both.

    Raises:
        ConditionError: both kinds are requested; a condition that the network was not built for; or a missing condition vector.
    """

    def __init__(self, width: int, classes: int | None, cond_features: int | None) -> None:
        super().__init__()
        if classes is not None and cond_features is not None:
            raise ConditionError(
                f"classes is {classes} and cond_features is {cond_features}, but a condition is labels or vectors; give one of them."
            )
        self.label = None if cond_features is not None else LabelEmbedding(classes, width)
        self.vector = None if cond_features is None else nn.Linear(cond_features, width, bias=False)
        self.conditional = classes is not None or cond_features is not None  # whether it accepts a condition

    def forward(self, cond: Tensor | None) -> Tensor | None:
        """Return the shift: rows (n, width), one row (width,) for all samples, or None."""
        if self.vector is not None:
            if cond is None:
                raise ConditionError(
                    f"this flow reads condition vectors of length {self.vector.in_features}, but cond is None; give one per row."
                )
            return self.vector(cond)
        assert self.label is not None
        if cond is None:
            row = self.label(None, 1)
            return None if row is None else row[0]
        return self.label(cond, len(cond))


class CouplingNet(nn.Module):
    """An MLP from rows (n, inputs) to rows (n, outputs), whose condition shifts the first hidden layer.

    Args:
        inputs: input features.
        outputs: predicted parameters.
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
        self.activation, self.act = activation, activation_of(activation)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([inputs, *widths], widths, strict=False))
        self.condition = Condition(widths[0], classes, cond_features)
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, a: Tensor, cond: Tensor | None = None) -> Tensor:
        first, *others = self.layers
        h, shift = first(a), self.condition(cond)
        h = self.act(h if shift is None else h + shift)
        for layer in others:
            h = self.act(layer(h))
        return self.out(h)


def checked_widths(hidden: Sequence[int]) -> list[int]:
    """Return the widths of the hidden layers, or raise an error if they are invalid."""
    if not hidden or min(hidden) < 1:
        raise UserError(f"hidden is {tuple(hidden)}, but the network needs at least one hidden layer of at least 1 unit; try (128, 128).")
    return list(hidden)
