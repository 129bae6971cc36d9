"""Couplings of angles: maps of the torus, on which -pi and pi are the same point."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.bijections.coupling import Coupling
from pushforward.bijections.elementwise import CircularSpline, wrapped
from pushforward.errors import DataError
from pushforward.nn.activation import Activation
from pushforward.registry import export

MOST = 2 * math.pi + 1e-3  # a turn, as it is rounded in files


@export(
    "bijections.CircularSplineCoupling",
    example=lambda: (CircularSplineCoupling(5, 4, (8, 8), swap=True), torch.pi * (2 * torch.rand(4, 5) - 1), None),
    exactness="exact",
)
class CircularSplineCoupling(Coupling):
    """Rotate each angle of one half of x and map it through a periodic spline, as a network of the other half predicts.

        z_a = x_a,    z_b = spline(x_b + t(x_a, cond) mod 2 pi; knots(x_a, cond)),    log|det| = sum log spline'

    The spline maps [-pi, pi) to itself with the same slope at both ends, so that the map of the circle is smooth everywhere. Angles outside
    [-pi, pi) are those inside that differ by a multiple of 2 pi. The network reads cosines and sines.

    Args:
        features: number of angles, at least 2; the halves have features // 2 and the rest.
        bins: pieces of each spline.
        hidden: widths of the network's hidden layers.
        swap: change the first half and keep the second, instead of the other way round; a chain alternates it.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels that `cond` may be, or None.
        cond_features: length of the vectors that `cond` may be, or None.
        dropout: fraction of hidden units dropped in training.

    Raises:
        UserError: features < 2, fewer than 2 bins, or a network that cannot be.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Example:
        >>> layer = CircularSplineCoupling(2)
        >>> x = torch.tensor([[0.5, -3.0]])
        >>> torch.allclose(layer(x)[0], layer(x + 2 * torch.pi)[0], atol=1e-5)
        True

    Source: Rezende et al., Normalizing flows on tori and spheres, 2020, arXiv 2002.02428, section 2.1 (circular splines).
    """

    inputs = 2

    def __init__(
        self,
        features: int,
        bins: int = 8,
        hidden: Sequence[int] = (128, 128),
        *,
        swap: bool = False,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features, CircularSpline(bins), hidden, swap, activation, classes, cond_features, dropout)

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Check that data are angles in radians, in [-pi, pi) or [0, 2 pi).

        Raises:
            DataError: a value is beyond one turn.
        """
        most = float(x.abs().amax())
        if most > MOST:
            raise DataError(f"angles are in radians, in [-pi, pi) or [0, 2 pi), but the data have a value of size {most:g}; convert them.")

    def embedded(self, kept: Tensor) -> Tensor:
        return torch.cat((kept.cos(), kept.sin()))

    def merge(self, kept: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
        return super().merge(wrapped(kept), changed)
