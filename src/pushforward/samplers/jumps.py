"""Jumps along the map of a few-step model, from noise to data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from pushforward import _random
from pushforward._checks import whole
from pushforward._precision import wide
from pushforward.errors import UserError
from pushforward.registry import export
from pushforward.samplers.grids import Grid, Uniform
from pushforward.samplers.sampler import Sampler
from pushforward.samplers.state import State


@dataclass(frozen=True)
class JumpSampler(Sampler):
    """A sampler of flow maps, whose denoisers have a method jump(x, t, r).

    Args:
        steps: number of jumps, one evaluation each.
        grid: where they start; equal steps in t by default.

    Raises:
        UserError: steps is below 1, or the model is no flow map.
    """

    steps: int = 1
    grid: Grid = field(default_factory=Uniform)

    jumps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("steps", self.steps, 1)

    @property
    def evaluations(self) -> int:
        return self.steps

    @property
    def draws(self) -> bool:
        """Whether it draws noise, so that its samples are no function of the noise that they start from."""
        return False

    def times(self, path: Any, t_start: float, t_end: float) -> list[tuple[float, float]]:
        """Return (t, r) of each jump."""
        return list(pairwise(self.grid(t_start, t_end, self.steps, path)))

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        for state in self._states(denoiser, x, t_start, t_end, generator):
            x = state.x
        return x

    def _states(self, denoiser: Any, x: Tensor, t_start: float, t_end: float, generator: _random.Generators) -> Iterator[State]:
        raise NotImplementedError

    def _jump(self, denoiser: Any) -> Callable[[Tensor, float, float], Tensor]:
        jump: Callable[[Tensor, float, float], Tensor] | None = getattr(denoiser, "jump", None)
        if jump is None:
            raise UserError(f"{self} jumps along a flow map, such as meanflow's, but this model has a velocity; use Euler(20) or Dopri5().")
        return jump


@export("samplers.Jumps")
@dataclass(frozen=True)
class Jumps(JumpSampler):
    """Follow the flow map of a few-step model from noise to data.

        x_r = jump(x_t, t, r) = x_t - (t - r) u(x_t, t, r)

    Args:
        steps: number of jumps, one evaluation each.
        grid: where they start; equal steps in t by default.

    Raises:
        UserError: steps is below 1, or the model is no flow map.

    Example:
        >>> Jumps(4).evaluations
        4

    Source: Geng et al., Mean flows for one-step generative modeling, 2025, arXiv 2505.13447, eq. 12; Frans et al., 2410.12557.
    """

    def _states(self, denoiser: Any, x: Tensor, t_start: float, t_end: float, generator: _random.Generators) -> Iterator[State]:
        jump = self._jump(denoiser)
        for t, r in self.times(denoiser.path, t_start, t_end):
            x = jump(x, t, r)
            yield State(r, x, None)


@export("samplers.Renoise")
@dataclass(frozen=True)
class Renoise(JumpSampler):
    """Jump to the data, add new noise up to a lower level, and repeat; one jump alone draws no noise.

        data = jump(x_t, t, 0),    x_s = alpha_s data + sigma_s xi

    Args:
        steps: number of jumps, one evaluation each.
        grid: where they start; equal steps in t by default.

    Raises:
        UserError: steps is below 1, or the model is no flow map.

    Example:
        >>> Renoise(2).solves_ode
        False

    Source: Song et al., Consistency models, 2023, arXiv 2303.01469, algorithm 1.
    """

    steps: int = 2

    @property
    def draws(self) -> bool:
        return self.steps > 1

    def times(self, path: Any, t_start: float, t_end: float) -> list[tuple[float, float]]:
        return [(t, t_end) for t, _ in super().times(path, t_start, t_end)]

    def _states(self, denoiser: Any, x: Tensor, t_start: float, t_end: float, generator: _random.Generators) -> Iterator[State]:
        jump, path = self._jump(denoiser), denoiser.path
        for (t, _), s in zip(self.times(path, t_start, t_end), self.grid(t_start, t_end, self.steps, path)[1:], strict=True):
            x = jump(x, t, t_end)
            if s != t_end:
                noise = _random.normal(x.shape, generator, x.device, x.dtype)
                x = path.mix(x, noise, x.new_full(x.shape[:1], s, dtype=wide(x)))
            yield State(s, x, None)
