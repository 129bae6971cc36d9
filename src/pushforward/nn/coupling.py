"""The network inside a coupling: it receives one half of the features and predicts the parameters of the other."""

from collections.abc import Sequence

from torch import Tensor, nn

from pushforward._checks import share_of, widths_of
from pushforward.nn.activation import Activation, activation_of
from pushforward.nn.embedding import condition_embedding


class CouplingNet(nn.Module):
    """An MLP from rows (n, inputs) to rows (n, outputs), whose condition shifts the first hidden layer.

    Args:
        inputs: input features.
        outputs: predicted parameters.
        hidden: widths of the hidden layers.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels, or None.
        cond_features: length of the condition vectors, or None.
        dropout: fraction of hidden units dropped in training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = checked_widths(hidden)
        self.act, self.dropout = activation_of(activation), dropout_of(dropout)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([inputs, *widths], widths, strict=False))
        self.condition = condition_embedding(widths[0], classes, cond_features)
        self.out = nn.Linear(widths[-1], outputs)

    def forward(self, a: Tensor, cond: Tensor | None = None) -> Tensor:
        first, *others = self.layers
        h, shift = first(a), self.condition(cond, a.shape[0])
        h = self._dropped(self.act(h if shift is None else h + shift))
        for layer in others:
            h = self._dropped(self.act(layer(h)))
        return self.out(h)

    def _dropped(self, h: Tensor) -> Tensor:
        """Return a hidden layer after dropout."""
        return h if self.dropout is None else self.dropout(h)


def dropout_of(share: float) -> nn.Dropout | None:
    """Return the dropout of this share of hidden units, None for 0."""
    return nn.Dropout(share) if share_of("dropout", share) else None


def checked_widths(hidden: Sequence[int]) -> list[int]:
    """Return the widths of the hidden layers, or raise an error if they are invalid."""
    return list(widths_of(hidden, "the network", (128, 128)))
