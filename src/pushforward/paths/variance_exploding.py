"""Data under noise that grows exponentially."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export


@export("paths.VarianceExploding", example=lambda: VarianceExploding())
@dataclass(frozen=True)
class VarianceExploding(Path):
    """Data under growing noise: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t.

    Args:
        sigma_min: noise at t = 0, in units of the (preprocessed) data.
        sigma_max: noise at t = 1, large compared with the data.

    Source: Song et al., 2011.13456, eq. 30 and appendix C.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise UserError(
                f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}, but 0 < sigma_min < sigma_max; try 0.01 and 50."
            )

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._rate * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._rate * self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-log_snr - math.log(self.sigma_min)) / self._rate
