"""A quarter of a circle, the path of the prediction v."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pushforward.paths.path import Path
from pushforward.registry import export


@export("paths.Cosine", example=lambda: Cosine())
@dataclass(frozen=True)
class Cosine(Path):
    """A quarter of a circle: alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Source: Nichol and Dhariwal, 2102.09672 (without their offset); Albergo and Vanden-Eijnden, 2209.15571.
    """

    variance_preserving: ClassVar[bool] = True

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1 - t) * (math.pi / 2))  # exactly 0 at t = 1, unlike a rounded cosine

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr)) * (2 / math.pi)
