"""Methods for inverse problems that are a loop of their own: they take the place of a sampler."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import whole
from pushforward.functional.conjugate_gradients import magnitude
from pushforward.functional.prediction import per_row
from pushforward.guidance.guidance import Guided
from pushforward.guidance.measured import Measured
from pushforward.guidance.observed import Observed
from pushforward.paths.path import Path
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.grids import Grid, Uniform
from pushforward.samplers.sampler import Sampler
from pushforward.types import path_of


@dataclass(frozen=True, eq=False, repr=False)
class Loop(Measured):
    """A method with steps of its own: it implements `run`, which a model calls in place of a sampler's steps."""

    steps: int = 50
    grid: Grid = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("steps", self.steps, 1)

    @property
    def sampler(self) -> Sampler:
        return _Steps(self)

    def run(self, denoiser: Any, x: Tensor, times: list[float], generator: _random.Generators) -> Tensor:
        """Return data (n, *shape) from noise x at times[0]; the denoiser is to be evaluated at `times`, and what follows is data."""
        raise NotImplementedError

    def __call__(self, denoiser: Denoiser) -> "Denoiser | Guided":
        """Return the denoiser that the loop evaluates."""
        return self.inside(denoiser)

    def descended(self, data: Tensor, iterations: int = 1, share: Tensor | float = 1.0, step: float | None = None) -> Tensor:
        """Return data (n, *shape) after steps down the gradient of half of |y - A(data)|².

        Args:
            data: an estimate of the data.
            iterations: number of steps.
            share: factor on each step.
            step: length of a step along the gradient of |y - A(data)|, without the square; None is to the minimum along the gradient of a
                linear A.
        """
        units = self.bound
        for _ in range(iterations):
            observed = Observed(self.measurement, units.to_user, self.y, data)
            gradient = observed.transpose(observed.residual)
            if step is None:
                along = gradient / magnitude(gradient)
                above, below = _square(along), _square(observed.product(along))
                size = torch.where(below > 0, above / torch.where(below > 0, below, 1), 0)
            else:
                norm = _square(observed.residual).sqrt()
                size = step / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            data = data + share * per_row(size, gradient) * gradient
        return data


def noise_share(path: Path, t: Tensor) -> Tensor:
    """Return sigma / (alpha + sigma) (n,): the time at which the linear path has the same signal-to-noise ratio."""
    sigma = path.sigma(t)
    return sigma / (path.alpha(t) + sigma)


def _square(v: Tensor) -> Tensor:
    return v[:, None].flatten(1).square().sum(1)


@dataclass(frozen=True)
class _Steps(Sampler):
    """A loop as the sampler that models call; its last step ends at the data."""

    loop: Loop

    @property
    def evaluations(self) -> int | None:
        return None

    def last_time(self, path: Any, t_min: float) -> float:
        return 0.0

    def step_times(self, path: Any, t_start: float, t_end: float) -> list[float]:
        times: list[float] = self.loop.grid(t_start, max(t_end, path.interval[0]), self.loop.steps, path)
        return times

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        return self.loop.run(denoiser, x, self.step_times(path_of(denoiser), t_start, t_end)[:-1], generator)
