"""Bijections made of bijections: one after another, or the other way round."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.columns import Parts, features_of, through
from pushforward.bijections.pixels import with_folds
from pushforward.errors import ShapeError
from pushforward.registry import export


def _small() -> tuple:
    from pushforward.bijections.standardise import Standardise

    first = Standardise((3,))
    first.initialise(torch.tensor([[0.0, 1.0, 2.0], [4.0, 3.0, 8.0]]))
    return first, torch.randn(4, 3), None


@export(
    "bijections.Chain", example=lambda: (Chain([_small()[0], Inverse(Chain([_small()[0], _small()[0]]))]), *_small()[1:]), exactness="exact"
)
class Chain(Bijection):
    """Bijections in sequence, data to noise from first to last: log-determinants add.

    Args:
        steps: the bijections, in the order in which data meets them; none at all is the identity.

    Raises:
        ShapeError: steps for vectors of different lengths.
    """

    def __init__(self, steps: Sequence[Bijection]) -> None:
        super().__init__()
        self.steps: Any = nn.ModuleList(steps)  # Any: torch types what a ModuleList holds as bare Modules
        sizes = sorted({size for size in map(features_of, steps) if size is not None})
        if len(sizes) > 1:
            raise ShapeError(f"the steps are for vectors of {sizes[0]} and of {sizes[1]} features; give all of a chain one number.")

    @property
    def features(self) -> int | None:
        """How many features the vectors have, if all steps are bijections of vectors."""
        sizes = [features_of(step) for step in self.steps]
        return sizes[0] if sizes and None not in sizes else None

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return through(with_folds(self.steps), x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return through(with_folds(self.steps), z, cond, inverse=True)

    def columns(self, parts: Parts, cond: Any, inverse: bool) -> tuple[Parts, Tensor | None]:
        """Return the parts mapped by all steps, and their log_abs_det, as a step of another chain does."""
        total = None
        for step in reversed(self.steps) if inverse else self.steps:
            parts, log_abs_det = step.columns(parts, cond, inverse)
            if log_abs_det is not None:
                total = log_abs_det if total is None else total + log_abs_det
        return parts, total

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        for step in self.steps:
            step.initialise(x, cond)
            x = step(x, cond)[0]

    def reaches(self, touched: Tensor) -> Tensor:
        for step in self.steps:
            whole = features_of(step) is None
            touched = step.reaches(touched) if whole else step.reaches(touched.flatten()).view(touched.shape)
        return touched


@export("bijections.Inverse", example=lambda: (Inverse(_small()[0]), *_small()[1:]), exactness="exact")
class Inverse(Bijection):
    """A bijection the other way round.

    Args:
        bijection: what is turned round.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection: Any = bijection  # Any: columns is there where features is

    @property
    def features(self) -> int | None:
        """How many features the vectors have, if it is a bijection of vectors that is turned round."""
        return features_of(self.bijection)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, cond)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.bijection(z, cond)

    def columns(self, parts: Parts, cond: Any, inverse: bool) -> tuple[Parts, Tensor | None]:
        """Return the parts mapped the other way round, as a step of a chain does."""
        return self.bijection.columns(parts, cond, not inverse)
