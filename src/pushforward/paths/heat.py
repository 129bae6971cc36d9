"""The heat equation, whose noise grows as the root of time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export


@export("paths.Heat", example=lambda: Heat())
@dataclass(frozen=True)
class Heat(Path):
    """The heat equation: alpha = 1, sigma = sqrt(2 T t), so that the density p at heat time s = T t solves dp/ds = laplacian p.

    The velocity is then -T score, a direct derivation of diffusion's ODE (`models.heat_ode`). sigma' is infinite at t = 0, so the interval
    starts at 0.000001, where sigma is a thousandth of its value at the end.

    Args:
        duration: T, the heat time at t = 1: noise of variance 2 T, large compared with the (preprocessed) data.

    Source: Su, kexue.fm 9280 (in Chinese), where the ODE is derived from the Jacobian determinant and the heat equation.
    """

    duration: float = 50.0
    interval: ClassVar[tuple[float, float]] = (1e-6, 1.0)
    log: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.duration > 0:
            raise UserError(f"duration is {self.duration}, but heat needs a positive time; try 50, noise of deviation 10.")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(2 * self.duration * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.duration / self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-2 * log_snr) / (2 * self.duration)
