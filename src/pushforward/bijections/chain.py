"""Bijections made of bijections: one after another, or the other way round."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.bijections.bijection import Bijection
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
    """

    def __init__(self, steps: Sequence[Bijection]) -> None:
        super().__init__()
        self.steps: Any = nn.ModuleList(steps)  # Any: torch types what a ModuleList holds as bare Modules

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        total = _zeros(x)
        for step in self.steps:
            x, log_abs_det = step(x, cond)
            total = total + log_abs_det
        return x, total

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        total = _zeros(z)
        for step in reversed(self.steps):
            z, log_abs_det = step.inverse(z, cond)
            total = total + log_abs_det
        return z, total

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        for step in self.steps:
            step.initialise(x, cond)
            x = step(x, cond)[0]


@export("bijections.Inverse", example=lambda: (Inverse(_small()[0]), *_small()[1:]), exactness="exact")
class Inverse(Bijection):
    """A bijection the other way round.

    Args:
        bijection: what is turned round.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, cond)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.bijection(z, cond)


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[0], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
