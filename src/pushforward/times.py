"""Distributions of training times t in [0, 1], each given by its quantile function and density.

A density acts as a loss weight: sampling t from it with weight 1 equals sampling t uniformly with the density as the weight.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import CheckedNumbers
from pushforward.errors import UserError
from pushforward.functional.bisection import bisected
from pushforward.paths.path import Path
from pushforward.paths.variance_exploding import VarianceExploding
from pushforward.registry import export, namespace

namespace(__name__)
MODE_LIMIT = 2 / (math.pi - 2)  # beyond it the map is not monotone


class Times(CheckedNumbers):
    """A distribution over training times; to add one, implement `quantile` and `density`."""

    def quantile(self, u: Tensor) -> Tensor:
        """Return t (n,) for uniform numbers u (n,): a monotone map of [0, 1] onto [0, 1]."""
        raise NotImplementedError

    def density(self, t: Tensor) -> Tensor:
        """Return the probability density at t (n,), which integrates to 1 over [0, 1]."""
        raise NotImplementedError

    def sample(
        self, n: int, generator: _random.Generators = None, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return n independent times (n,)."""
        return self.quantile(_random.uniform((n,), generator, device, dtype))


@export("times.Uniform", example=lambda: Uniform())
@dataclass(frozen=True)
class Uniform(Times):
    """Uniform times: density 1."""

    def quantile(self, u: Tensor) -> Tensor:
        return u

    def density(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@export("times.LogitNormal", example=lambda: LogitNormal())
@dataclass(frozen=True)
class LogitNormal(Times):
    """Concentrated in the middle: t = sigmoid(mean + std n) with n standard normal.

        density exp(-(logit(t) - mean)² / (2 std²)) / (std sqrt(2 pi) t (1 - t))

    Args:
        mean: location in logits; positive favours noise.
        std: scale in logits; positive.

    Source: Esser et al. (Stable Diffusion 3), 2403.03206, eq. 19; (0, 1) performs best in their study.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.std > 0:
            raise UserError(f"std is {self.std}, but the std of a logit-normal must be positive; try 1.")

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def density(self, t: Tensor) -> Tensor:
        z = (torch.logit(t) - self.mean) / self.std
        return torch.exp(-0.5 * z * z) / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))


@export("times.Mode", example=lambda: Mode())
@dataclass(frozen=True)
class Mode(Times):
    """Heavy tails: t = 1 - u - scale (cos²(pi u / 2) - 1 + u), whose density never vanishes at the ends.

    Args:
        scale: between -1 and 2 / (pi - 2) = 1.75; positive favours the middle, negative the ends, 0 is uniform.

    Source: Esser et al. (Stable Diffusion 3), 2403.03206, eq. 20; 1.29 is their value.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.scale <= MODE_LIMIT:
            raise UserError(f"scale is {self.scale}, but Mode's map is monotone only from -1 to {MODE_LIMIT:.4f}; try 1.29.")

    def quantile(self, u: Tensor) -> Tensor:
        return 1 - u - self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)

    def density(self, t: Tensor) -> Tensor:
        # u(t): the map has no closed inverse, and falls from 1 to 0.
        u = bisected(lambda u: self.quantile(u) > t, torch.zeros_like(t), torch.ones_like(t))
        slope = 1 + self.scale - self.scale * math.pi / 2 * torch.sin(math.pi * u)
        return 1 / slope.abs()


@export("times.CosMap", example=lambda: CosMap())
@dataclass(frozen=True)
class CosMap(Times):
    """The cosine schedule's times on the linear path: t = 1 - 1 / (tan(pi u / 2) + 1), density 2 / (pi - 2 pi t + 2 pi t²).

    Source: Esser et al. (Stable Diffusion 3), 2403.03206, eq. 21.
    """

    def quantile(self, u: Tensor) -> Tensor:
        sine, cosine = torch.sin(math.pi / 2 * u), torch.sin(math.pi / 2 * (1 - u))
        return sine / (sine + cosine)  # the same without an infinite tangent at u = 1

    def density(self, t: Tensor) -> Tensor:
        return 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t * t)


@export("times.Shifted", example=lambda: Shifted(LogitNormal(), 3.0))
@dataclass(frozen=True)
class Shifted(Times):
    """Another distribution shifted towards noise, as needed for larger images: t -> factor t / (1 + (factor - 1) t).

    Args:
        times: the distribution to shift.
        factor: shift factor; 1 changes nothing, Stable Diffusion 3 uses 3 at 1024 x 1024.

    Source: Esser et al. (Stable Diffusion 3), 2403.03206, eq. 23.
    """

    times: Times = field(default_factory=Uniform)
    factor: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.factor > 0:
            raise UserError(f"factor is {self.factor}, but a shift factor must be positive; 1 means no shift.")

    def quantile(self, u: Tensor) -> Tensor:
        return shift(self.times.quantile(u), self.factor)

    def density(self, t: Tensor) -> Tensor:
        before = shift(t, 1 / self.factor)
        return self.times.density(before) * (1 + (self.factor - 1) * before) ** 2 / self.factor


@export("times.NormalLogSNR", example=lambda: NormalLogSNR())
@dataclass(frozen=True)
class NormalLogSNR(Times):
    """Times at which the log-SNR of a path, log(alpha / sigma), is normally distributed, truncated to the path's interval.

    On a path with alpha = 1 the noise sigma is then log-normal, as in EDM: its ln sigma ~ N(-1.2, 1.2²) is mean 1.2, std 1.2 here.

    Args:
        path: the training path.
        mean: location in log-SNR; negative favours noise.
        std: scale in log-SNR; positive.

    Source: Karras et al. (EDM), 2206.00364, section 5.
    """

    path: Path = field(default_factory=VarianceExploding)
    mean: float = 1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.std > 0:
            raise UserError(f"std is {self.std}, but the std of a normal distribution must be positive; try 1.2.")

    def _shares(self) -> tuple[float, float]:
        """Return the normal CDF at the log-SNR of the interval's start and of its end."""
        ends = self.path.log_snr(torch.tensor(self.path.interval, dtype=torch.float64))
        start, end = torch.special.ndtr((ends - self.mean) / self.std).tolist()
        return start, end

    def quantile(self, u: Tensor) -> Tensor:
        (start, end), (low, high) = self._shares(), self.path.interval
        t = self.path.time(self.mean + self.std * torch.special.ndtri(start + (end - start) * u))
        return ((t - low) / (high - low)).clamp(0, 1)

    def density(self, t: Tensor) -> Tensor:
        (start, end), (low, high) = self._shares(), self.path.interval
        t = low + (high - low) * t
        slope = self.path.sigma_dot(t) / self.path.sigma(t) - self.path.alpha_dot(t) / self.path.alpha(t)
        z = (self.path.log_snr(t) - self.mean) / self.std
        return torch.exp(-0.5 * z * z) * slope * (high - low) / (self.std * math.sqrt(2 * math.pi) * (start - end))


@export("times.Point")
@dataclass(frozen=True)
class Point(Times):
    """A single training time, as one-step distillation uses at t = 1: a point mass, which has no density.

    Args:
        t: the time, from 0 to 1 of the path's interval.

    Raises:
        UserError: t is out of range, or the density is requested.
    """

    t: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.t <= 1:
            raise UserError(f"t is {self.t}, but a time must be between 0 (data) and 1 (noise).")

    def quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.t)

    def density(self, t: Tensor) -> Tensor:
        raise UserError(f"Point({self.t}) is a point mass, which has no density; use LogitNormal for one.")


def shift(t: Tensor, factor: float) -> Tensor:
    """Return factor t / (1 + (factor - 1) t); the inverse is the shift by 1 / factor."""
    return factor * t / (factor * t + (1 - t))  # this form maps 1 to exactly 1 and never rounds beyond it
