"""Where a sampler's steps lie: functions of (t_start, t_end, steps, path) to steps + 1 times from start to end."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from pushforward.errors import UserError
from pushforward.registry import export
from pushforward.times import shift

REACH = 7.0  # log-SNR is infinite at the ends of some paths; grids in it end here, where alpha / sigma is 1100 or its inverse


class Grid:
    """Where steps lie; to add one, write `places`: a monotone map of [0, 1] onto [t_start, t_end]."""

    def places(self, u: torch.Tensor, t_start: float, t_end: float, path: Any) -> torch.Tensor:
        """Return the times at fractions u (steps + 1,) of the way, float64."""
        raise NotImplementedError

    def __call__(self, t_start: float, t_end: float, steps: int, path: Any = None) -> list[float]:
        """Return steps + 1 times, the first t_start and the last t_end exactly."""
        inner = self.places(torch.linspace(0, 1, steps + 1, dtype=torch.float64)[1:-1], t_start, t_end, path)
        return [t_start, *inner.tolist(), t_end]


@export("samplers.Uniform", example=lambda: Uniform())
@dataclass(frozen=True)
class Uniform(Grid):
    """Equal steps in t."""

    def places(self, u: torch.Tensor, t_start: float, t_end: float, path: Any) -> torch.Tensor:
        return t_start + (t_end - t_start) * u


@export("samplers.Shifted", example=lambda: Shifted())
@dataclass(frozen=True)
class Shifted(Grid):
    """Equal steps moved towards noise: t -> factor t / (1 + (factor - 1) t).

    With `levels` the steps from noise to data are those of Stable Diffusion 3's own code. Its training knows the levels 1/levels, ..., 1,
    shifted; n steps start at n equally spaced times from the highest of them to the lowest, shifted once more, and the last one ends at 0.
    For factor 3, 1000 levels and 4 steps: 1, 0.8577, 0.6022, 0.0089, 0; equal steps would give 1, 0.9, 0.75, 0.5, 0.

    Args:
        factor: how far; 1 leaves equal steps.
        levels: number of levels of a training grid, such as 1000, or None for equal steps down to the end.

    Raises:
        UserError: a factor that is not positive, or fewer than 2 levels.

    Source: Esser et al. (Stable Diffusion 3), 2403.03206, eq. 23; levels: the Stable Diffusion 3.5 inference code (get_sigmas).
    """

    factor: float = 3.0
    levels: int | None = None

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise UserError(f"factor is {self.factor}, but a shift needs a positive one; 1 means none.")
        if self.levels is not None and self.levels < 2:
            raise UserError(f"levels is {self.levels}, but a training grid has at least 2; Stable Diffusion 3's has 1000.")

    def places(self, u: torch.Tensor, t_start: float, t_end: float, path: Any) -> torch.Tensor:
        if self.levels is not None and t_start < t_end:
            return self.places(1 - u, t_end, t_start, path)  # the same times the other way
        start, end = (shift(torch.tensor(t, dtype=torch.float64), 1 / self.factor) for t in (t_start, t_end))
        if self.levels is not None and len(u):
            lowest = shift(torch.tensor(1 / self.levels, dtype=torch.float64), self.factor)
            if end < lowest < start:
                end, u = lowest, u / u.max()
        return shift(start + (end - start) * u, self.factor)


@export("samplers.LogSNR", example=lambda: LogSNR())
@dataclass(frozen=True)
class LogSNR(Grid):
    """Equal steps in log(alpha / sigma), as diffusion's fast solvers take them.

    Source: Lu et al., DPM-Solver, 2206.00927, section 3.
    """

    def places(self, u: torch.Tensor, t_start: float, t_end: float, path: Any) -> torch.Tensor:
        start, end = _log_snr_ends(path, t_start, t_end, "LogSNR")
        return path.time(start + (end - start) * u)


@export("samplers.Karras", example=lambda: Karras())
@dataclass(frozen=True)
class Karras(Grid):
    """Equal steps in (sigma / alpha)^(1 / rho): short ones near the data.

    Args:
        rho: how short; EDM's is 7, 1 is equal steps in sigma / alpha.

    Source: Karras et al. (EDM), 2206.00364, eq. 5.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise UserError(f"rho is {self.rho}, but it must be positive; try 7.")

    def places(self, u: torch.Tensor, t_start: float, t_end: float, path: Any) -> torch.Tensor:
        start, end = (math.exp(-lam / self.rho) for lam in _log_snr_ends(path, t_start, t_end, "Karras"))
        return path.time(-self.rho * (start + (end - start) * u).log())


def _log_snr_ends(path: Any, t_start: float, t_end: float, name: str) -> tuple[float, float]:
    if path is None:
        raise UserError(f"the grid {name} needs a denoiser with a path; use Uniform for a bare velocity.")
    start, end = path.log_snr(torch.tensor([t_start, t_end], dtype=torch.float64)).clamp(-REACH, REACH).tolist()
    return start, end
