"""Standardisation to the units of a model: zero mean, unit variance."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.bijections.bijection import Bijection
from pushforward.errors import ShapeError
from pushforward.functional.standardise import standardise
from pushforward.registry import export


def _example() -> tuple:
    bijection = Standardise((3,))
    bijection.initialise(torch.tensor([[0.0, 1.0, 2.0], [4.0, 3.0, 8.0]]))
    return bijection, torch.randn(4, 3), None


@export("bijections.Standardise", example=_example, exactness="exact")
class Standardise(Bijection):
    """Subtract the data's mean and divide by its standard deviation: `functional.standardise` with fitted buffers.

    Vectors have a mean and deviation for each feature, images for each channel, so that a pixel that is always black does no harm.
    Until `initialise` has seen data it is the identity.

    Args:
        shape: the event's shape, (features,) or (channels, height, width).

    Raises:
        ShapeError: the data to fit has another shape.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        statistics = (shape[0], *(1,) * (len(shape) - 1))
        self.register_buffer("mean", torch.zeros(statistics))
        self.register_buffer("std", torch.ones(statistics))

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit mean and deviation to x (n, *shape), n at least 2; a constant feature keeps deviation 1."""
        if tuple(x.shape[1:]) != self.shape or len(x) < 2:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but standardising needs at least two rows of shape {self.shape}.")
        dims = [0, *range(2, x.ndim)]
        std = x.double().std(dims, keepdim=True)[0]
        self.mean.copy_(x.double().mean(dims, keepdim=True)[0])
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return standardise(x, self.mean, self.std)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return standardise(z, self.mean, self.std, inverse=True)
