"""Time grids of samplers: functions of (t_start, t_end, steps, path) that return steps + 1 times from start to end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pushforward._checks import CheckedNumbers
from pushforward._suggestions import unknown
from pushforward.errors import UserError
from pushforward.registry import export
from pushforward.times import shift

RHO = 7.0  # of Karras et al., on the times themselves
LEAST = 1e-6  # time whose logarithm stands for that of 0
Spacing = Literal["shifted", "karras", "exponential"]
REACH = 7.0  # log-SNR is infinite at the ends of some paths; grids in log-SNR stop here, where alpha / sigma is 1100 or its inverse


class Grid(CheckedNumbers):
    """A time grid; to add one, implement `places`: a monotone map of [0, 1] onto [t_start, t_end]."""

    def places(self, u: Tensor, t_start: float, t_end: float, path: Any) -> Tensor:
        """Return the times at fractions u (steps + 1,) of the interval, float64."""
        raise NotImplementedError

    def __call__(self, t_start: float, t_end: float, steps: int, path: Any = None) -> list[float]:
        """Return steps + 1 times, the first t_start and the last t_end exactly."""
        if steps == 1 and path is not None:
            return [t_start, t_end]
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[1:-1]
        inner = self.places(u if path is None else u.to(where(path)), t_start, t_end, path)
        return [t_start, *inner.tolist(), t_end]

    def to_data(self, t_start: float, steps: int, path: Any, spare: int = 0) -> list[float]:
        """Return the times at which a diffusion sampler evaluates the network on a discrete path, one per step, followed by 0, the data.

        By default they are those of `steps - 1` steps from t_start to the first knot, and the last step goes from there to the data.

        Args:
            t_start: time to start from.
            steps: number of steps.
            path: a path with knots.
            spare: number of extra knots that diffusers' scheduler for the sampler spaces and omits at the end; for `Knots` only.
        """
        return [t_start, 0.0] if steps == 1 else [*self(t_start, path.interval[0], steps - 1, path), 0.0]

    def last_time(self, path: Any, steps: int, t_min: float) -> float:
        """Return the time at which the steps of an ODE solver end; from there a model takes the expected data."""
        return t_min


@export("samplers.Uniform", example=lambda: Uniform())
@dataclass(frozen=True)
class Uniform(Grid):
    """Equal steps in t; on a discrete path this includes the last step, to the data at t = 0."""

    def places(self, u: Tensor, t_start: float, t_end: float, path: Any) -> Tensor:
        return t_start + (t_end - t_start) * u

    def to_data(self, t_start: float, steps: int, path: Any, spare: int = 0) -> list[float]:
        return self(t_start, 0.0, steps, path)


@export("samplers.Shifted", example=lambda: Shifted())
@dataclass(frozen=True)
class Shifted(Grid):
    """Equal steps shifted towards noise: t -> factor t / (1 + (factor - 1) t).

    With `levels` the steps from noise to data are those of Stable Diffusion 3's code. Training uses the shifted levels 1/levels, ..., 1;
    n steps start at n equally spaced times from the highest to the lowest of these, shifted once more, and the last step ends at 0.
    For factor 3, 1000 levels and 4 steps: 1, 0.8577, 0.6022, 0.0089, 0; equal steps would give 1, 0.9, 0.75, 0.5, 0.

    Args:
        factor: strength of the shift; 1 gives equal steps.
        levels: number of levels of a training grid, such as 1000, or None for equal steps down to the end.
        trained: shift of these levels; None is `factor`. 1 gives diffusers' steps of `use_dynamic_shifting`.
        terminal: the lowest time before the end, to which the shifted times are stretched (1 stays); None is that of the lowest level.
        spacing: what is equally spaced from the highest to the lowest time: "shifted" is the time before the shift, "karras" t^(1/7), and
            "exponential" log t.

    Raises:
        UserError: a factor that is not positive, fewer than 2 levels, a terminal time outside (0, 1), another spacing, or these two
            without levels.

    Source: Esser et al. (Stable Diffusion 3), 2403.03206, eq. 23; levels: the Stable Diffusion 3.5 inference code (get_sigmas); the others:
    FlowMatchEulerDiscreteScheduler of diffusers, as `shift_terminal`, `use_karras_sigmas` and `use_exponential_sigmas`.
    """

    factor: float = 3.0
    levels: int | None = None
    trained: float | None = None
    terminal: float | None = None
    spacing: Spacing = "shifted"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.factor > 0:
            raise UserError(f"factor is {self.factor}, but a shift needs a positive one; 1 means none.")
        if self.trained is not None and not self.trained > 0:
            raise UserError(f"trained is {self.trained}, but a shift needs a positive one; 1 means none.")
        if self.levels is not None and self.levels < 2:
            raise UserError(f"levels is {self.levels}, but a training grid has at least 2; Stable Diffusion 3's has 1000.")
        if self.terminal is not None and not 0 < self.terminal < 1:
            raise UserError(f"terminal is {self.terminal}, but the lowest time is between 0 and 1; None is that of the lowest level.")
        if self.spacing not in get_args(Spacing):
            raise UserError(unknown("spacing", self.spacing, get_args(Spacing)))
        if self.levels is None and (self.terminal is not None or self.spacing != "shifted"):
            raise UserError("terminal and spacing are those of the times of a training grid; give levels=1000, or leave them out.")

    def places(self, u: Tensor, t_start: float, t_end: float, path: Any) -> Tensor:
        if self.levels is not None and t_start < t_end:
            return self.places(1 - u, t_end, t_start, path)  # the same times the other way
        start, end = (self._spaced(u.new_tensor(t)) for t in (t_start, t_end))
        if self.levels is not None and len(u):
            level = self._level(u)
            lowest = level if self.spacing == "shifted" else self._spaced(self._stretched(shift(level, self.factor)))
            if end < lowest < start:
                end, u = lowest, u / u.max()
        return self._times(start + (end - start) * u)

    def _level(self, like: Tensor) -> Tensor:
        """Return the lowest level of the training grid, before the second shift."""
        assert self.levels is not None
        return shift(like.new_tensor(1 / self.levels), self.factor if self.trained is None else self.trained)

    def _stretched(self, t: Tensor, inverse: bool = False) -> Tensor:
        """Return shifted times t, stretched so that the lowest is `terminal`."""
        if self.terminal is None:
            return t
        ratio = (1 - self.terminal) / (1 - shift(self._level(t), self.factor))
        return 1 - (1 - t) / ratio if inverse else 1 - (1 - t) * ratio

    def _spaced(self, t: Tensor) -> Tensor:
        """Return what is equally spaced, of times t."""
        if self.spacing == "karras":
            return t ** (1 / RHO)
        if self.spacing == "exponential":
            return t.clamp_min(LEAST).log()
        return shift(self._stretched(t, inverse=True), 1 / self.factor)

    def _times(self, spaced: Tensor) -> Tensor:
        """Return the times of what is equally spaced."""
        if self.spacing == "karras":
            return spaced**RHO
        if self.spacing == "exponential":
            return spaced.exp()
        return self._stretched(shift(spaced, self.factor))

    def to_data(self, t_start: float, steps: int, path: Any, spare: int = 0) -> list[float]:
        times = self(t_start, 0.0, steps, path)
        return times if steps == 1 or times[-2] >= path.interval[0] else super().to_data(t_start, steps, path)


@export("samplers.LogSNR", example=lambda: LogSNR())
@dataclass(frozen=True)
class LogSNR(Grid):
    """Equal steps in log(alpha / sigma), as in fast diffusion solvers.

    Source: Lu et al., DPM-Solver, 2206.00927, section 3.
    """

    def places(self, u: Tensor, t_start: float, t_end: float, path: Any) -> Tensor:
        start, end = _log_snr_ends(path, t_start, t_end, "LogSNR")
        return path.time(start + (end - start) * u)


@export("samplers.Karras", example=lambda: Karras())
@dataclass(frozen=True)
class Karras(Grid):
    """Equal steps in (sigma / alpha)^(1 / rho): shorter near the data.

    Args:
        rho: larger values give shorter steps near the data; EDM's is 7, 1 gives equal steps in sigma / alpha.

    Source: Karras et al. (EDM), 2206.00364, eq. 5.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rho > 0:
            raise UserError(f"rho is {self.rho}, but it must be positive; try 7.")

    def places(self, u: Tensor, t_start: float, t_end: float, path: Any) -> Tensor:
        start, end = (math.exp(-lam / self.rho) for lam in _log_snr_ends(path, t_start, t_end, "Karras"))
        return path.time(-self.rho * (start + (end - start) * u).log())


def _log_snr_ends(path: Any, t_start: float, t_end: float, name: str) -> tuple[float, float]:
    if path is None:
        raise UserError(f"the grid {name} needs a denoiser with a path; use Uniform for a bare velocity.")
    start, end = path.log_snr(clock(path, (t_start, t_end))).clamp(-REACH, REACH).tolist()
    return start, end


def clock(path: Any, times: Sequence[float]) -> Tensor:
    """Return times in float64 on the device of a path: the CPU, or the device of its parameters."""
    return torch.tensor(times, dtype=torch.float64, device=where(path))


def where(path: Any) -> torch.device:
    """Return the device on which a path computes functions of time."""
    first = next(path.parameters(), None) if isinstance(path, nn.Module) else None
    return torch.device("cpu") if first is None else first.device
