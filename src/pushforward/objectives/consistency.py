"""Consistency training and distillation: the data that a trajectory ends at, from any of its points."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import like_input, real, whole
from pushforward._precision import uncast
from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.objectives.derivative import Draws
from pushforward.objectives.objective import FlowMapping, Losses, Objective, squared, uniform_times
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.grids import clock


@dataclass(frozen=True)
class ConsistencyFunction(Objective):
    """Objectives of a network whose data prediction f(x_t, t) is the end of the trajectory through x_t, with f(x, t_min) = x.

    A level of noise is s = sigma / alpha, whatever the path.
    """

    def data(self, model: FlowMapping, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Return f(x, t), (n, *shape)."""
        return Prediction(model.path, model.prediction, like_input(model.net(x, t, cond), x), x, t).data

    def jump(self, model: FlowMapping, x: Tensor, t: Tensor, r: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
        return self.data(model, x, t, cond).to(x.dtype)

    def check_jump(self, t: float, r: float, interval: tuple[float, float]) -> None:
        if r > interval[0] + 1e-9:
            raise UserError(
                f"a jump from t = {t:g} to {r:g} is asked for, but {type(self).__name__} learns jumps to the data; use Renoise(steps), or "
                "Jumps(1)."
            )

    def pair_losses(self, model: FlowMapping, x: Tensor, noise: Tensor, cond: Any, s: Tensor, lower: Tensor, huber: float) -> Losses:
        """Return the losses of f at levels s (n,) against f at lower levels (n,), which has no gradient.

            (sqrt(|f(x_s) - f(x_lower)|² + c²) - c) / (s - lower),    c = huber sqrt(D)

        Both have the same dropout masks, and the same data and noise unless a teacher solves its ODE from one to the other; where `lower`
        is 0 the target is the data.
        """
        t, r = level_time(model.path, s, model.interval), level_time(model.path, lower, model.interval)
        x_t = model.path.mix(x, noise, t)
        draws = Draws(x.device)
        predicted = self.data(model, x_t, t, cond)
        x_r = model.step(x, noise, x_t, t, r, cond)

        def target() -> Tensor:
            with torch.no_grad():
                return self.data(model, x_r, r, cond)

        clean = x if model.teacher is None else x_r  # the end of the trajectory
        aim = torch.where(per_row(lower > 0, x).bool(), draws.repeated(target), clean)
        with uncast(x):
            total, c = squared(predicted - aim), huber * math.sqrt(x[:1].numel())
            losses = (torch.sqrt(total + c * c) - c if c else length(total)) / (s - lower)
        return Losses(t, losses, losses)


def length(total: Tensor) -> Tensor:
    """Return the square root, with gradient 0 at 0."""
    positive = total > 0
    return torch.where(positive, torch.where(positive, total, 1.0).sqrt(), 0.0)


def level_time(path: Path, s: Tensor, interval: tuple[float, float]) -> Tensor:
    """Return the times (n,) at which sigma / alpha has these values, within an interval."""
    return path.time(-s.clamp(min=1e-20).log()).clamp(*interval)


def level_ends(path: Path, interval: tuple[float, float]) -> tuple[float, float]:
    """Return sigma / alpha at both ends of an interval."""
    low, high = torch.exp(-path.log_snr(clock(path, interval))).tolist()
    return low, high


@export("objectives.ImprovedConsistency")
@dataclass(frozen=True)
class ImprovedConsistency(ConsistencyFunction):
    """Consistency between neighbouring levels of a grid that gets finer during the training.

        loss = (sqrt(|f(x_i+1) - stopgrad f(x_i)|² + c²) - c) / (s_i+1 - s_i),    c = huber sqrt(D)

    The grid's N + 1 levels are Karras et al.'s; N doubles from `first` to `last` at equal shares of the training. From data the neighbours
    share data and noise; a teacher solves its ODE from one to the other instead (consistency distillation).

    Args:
        first: number of steps of the first grid.
        last: number of steps of the last grid.
        mean: mean of ln s in training.
        std: deviation of ln s in training.
        huber: constant of the pseudo-Huber loss in units of sqrt(D).
        rho: exponent of the grid.

    Raises:
        UserError: an option is out of range.

    Source: Song and Dhariwal, Improved techniques for training consistency models, 2023, arXiv 2310.14189, section 3; Song et al.,
    2303.01469 (distillation).
    """

    first: int = 10
    last: int = 1280
    mean: float = -1.1
    std: float = 2.0
    huber: float = 0.00054
    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if whole("first", self.first, 2) > whole("last", self.last, 2):
            raise UserError(f"first is {self.first} and last {self.last}, but grids get finer; 10 and 1280 are the paper's.")
        _positive(self, "std", "rho")
        real("huber", self.huber, 0)

    def steps(self, progress: float) -> int:
        """Return the number of steps of the grid after a share of the training."""
        doublings = int(progress * (math.floor(math.log2(self.last / self.first)) + 1))
        return min(self.first * 2**doublings, self.last)

    def levels(self, model: FlowMapping) -> Tensor:
        """Return the levels of the current grid, ascending, in float64."""
        low, high = (end ** (1 / self.rho) for end in level_ends(model.path, model.interval))
        count = self.steps(model.progress if model.training else 1.0)
        return torch.linspace(low, high, count + 1, dtype=torch.float64, device="cpu") ** self.rho

    def losses(self, model: FlowMapping, x: Tensor, noise: Tensor, cond: Any, generator: _random.Generators) -> Losses:
        levels = self.levels(model)
        at = torch.erf((levels.log() - self.mean) / (math.sqrt(2) * self.std))
        shares = (at[1:] - at[:-1]).cumsum(0)
        u = uniform_times(len(x), generator, x)
        index = torch.searchsorted((shares / shares[-1]).to(u), u).clamp(max=len(shares) - 1)
        levels = levels.to(u)
        return self.pair_losses(model, x, noise, cond, levels[index + 1], levels[index], self.huber)


@export("objectives.EasyConsistency")
@dataclass(frozen=True)
class EasyConsistency(ConsistencyFunction):
    """Consistency over a gap that starts as all of the level, which is denoising, and shrinks during the training.

        loss = |f(x_s) - stopgrad f(x_r)| / (s - r),    r = s max(0, 1 - n(s) / base^(stage + 1)),    n(s) = 1 + k sigmoid(-b s)

    At r = 0 the target is the data: a trained diffusion model is where it starts from, and what its first stage would learn.

    Args:
        mean: mean of ln s in training.
        std: deviation of ln s in training.
        base: factor by which the gap shrinks from stage to stage.
        stages: number of stages, of equal shares of the training.
        k: how much larger the gap is at small levels.
        b: how fast that falls with the level.
        huber: constant of the pseudo-Huber loss in units of sqrt(D); 0 is the plain norm.

    Raises:
        UserError: an option is out of range.

    Source: Geng et al., Consistency models made easy, 2024, arXiv 2406.14548, section 3.
    """

    mean: float = -1.1
    std: float = 2.0
    base: float = 2.0
    stages: int = 8
    k: float = 8.0
    b: float = 1.0
    huber: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("stages", self.stages, 1)
        _positive(self, "std", "b")
        real("huber", self.huber, 0)
        real("k", self.k, 0)
        if not self.base > 1:
            raise UserError(f"base is {self.base}, but a gap that shrinks needs more than 1; 2 is usual.")

    def lower(self, s: Tensor, progress: float) -> Tensor:
        """Return the lower levels (n,) of levels s after a share of the training; 0 where the gap is all of the level."""
        stage = min(self.stages - 1, int(progress * self.stages))
        gap = (1 + self.k * torch.sigmoid(-self.b * s)) / self.base ** (stage + 1)
        return s * (1 - gap).clamp(min=0)

    def losses(self, model: FlowMapping, x: Tensor, noise: Tensor, cond: Any, generator: _random.Generators) -> Losses:
        low, high = level_ends(model.path, model.interval)
        u = uniform_times(len(x), generator, x)
        s = torch.exp(self.mean + self.std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))).clamp(max(low, 1e-3), high)
        lower = self.lower(s, model.progress if model.training else 1.0)
        return self.pair_losses(model, x, noise, cond, s, torch.where(lower > low, lower, 0.0), self.huber)


def _positive(record: Any, *names: str) -> None:
    for name in names:
        if not getattr(record, name) > 0:
            raise UserError(f"{name} is {getattr(record, name)}, but it must be positive in {type(record).__name__}.")
