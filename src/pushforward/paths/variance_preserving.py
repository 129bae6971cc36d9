"""Diffusion with a linear rate, and the same with less noise."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export


@export("paths.VariancePreserving", example=lambda: VariancePreserving())
@dataclass(frozen=True)
class VariancePreserving(Path):
    """Diffusion with a linear rate beta: alpha = exp(-B / 2), sigma² = 1 - alpha², B(t) = beta_min t + (beta_max - beta_min) t² / 2.

    sigma' is infinite at t = 0, so the interval starts at 0.0001, where sigma is 0.003.

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.

    Source: Ho et al., 2006.11239; Song et al., 2011.13456, eq. 32 and 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    interval: ClassVar[tuple[float, float]] = (1e-4, 1.0)
    variance_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_min <= self.beta_max:
            raise UserError(f"beta_min is {self.beta_min} and beta_max {self.beta_max}, but 0 < beta_min <= beta_max; try 0.1 and 20.")

    def _integral(self, t: Tensor) -> Tensor:
        return (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t) * t

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return 0.5 * self._beta(t) * self.alpha(t) ** 2 / self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return self._time(torch.nn.functional.softplus(-2 * log_snr))  # -log alpha², as alpha² = sigmoid(2 lambda)

    def _time(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))


@export("paths.SubVariancePreserving", example=lambda: SubVariancePreserving())
@dataclass(frozen=True)
class SubVariancePreserving(VariancePreserving):
    """The same alpha with less noise: alpha = exp(-B / 2), sigma = 1 - alpha², with B as in `VariancePreserving`.

    Nothing is singular at t = 0, where sigma grows in proportion to t.

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.

    Source: Song et al., 2011.13456, eq. 29 and appendix C.
    """

    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)
    variance_preserving: ClassVar[bool] = False

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._beta(t) * self.alpha(t) ** 2

    def time(self, log_snr: Tensor) -> Tensor:
        inverse = torch.exp(-log_snr)  # 1 / r, where r = alpha / (1 - alpha²), so that sigma = 2 / (1 + sqrt(1 + 4 r²))
        return self._time(-torch.log1p(-2 * inverse / (inverse + torch.sqrt(inverse**2 + 4))))
