"""What all samplers share: a frozen object called as sampler(denoiser, x, t_start, t_end, generator).

`denoiser(x, t)` takes x (n, *shape) and t (n,) and returns something with `.velocity`, `.data`, `.noise` and `.score`. A sampler that only
reads the velocity solves the ODE, in either direction of time, and can therefore carry a likelihood.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from pushforward import _random
from pushforward.errors import UserError
from pushforward.ode import STEPS, call_weights, fixed_steps, stage_values
from pushforward.samplers.grids import Grid, Uniform

SLACK = 1e-9  # what float32 clocks and clipped ends may be off


class Sampler:
    """A way from x at t_start to t_end; to add one, write `__call__` and say whether it solves the ODE."""

    solves_ode: ClassVar[bool] = False

    @property
    def evaluations(self) -> int | None:
        """How often the network is called for each sample, or None if that depends on the sample."""
        return None

    def stage_times(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        """Return all times at which the network is called, each for the whole batch, or None where that is not known beforehand."""
        return None

    def call_weights(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        """Return what each call of the denoiser, in turn, weighs in an integral over time along the way; None where that is not known."""
        return None

    def last_time(self, path: Any, t_min: float) -> float:
        """Return the time to which a model samples, and from which, if sigma is not 0 there, it goes on to the expected data.

        t_min, the least time of the model; or 0 where the sampler's own last step is to the expected data, as that of `LinearSampler` is
        on a discrete path.
        """
        return t_min

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        """Return the state at t_end (n, *shape).

        Args:
            denoiser: maps x (n, *shape) and t (n,) to a prediction.
            x: state at t_start (n, *shape); it is not written.
            t_start: time to start from.
            t_end: time to arrive at.
            generator: randomness of a stochastic sampler.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FixedStepSampler(Sampler):
    """A Runge-Kutta method of `ode` over the steps of a grid.

    Args:
        steps: number of steps.
        grid: where they lie.
        adjoint: whether gradients come from the adjoint ODE, in memory that does not grow with the steps (see `ode.odeint`).
    """

    steps: int = 20
    grid: Grid = field(default_factory=Uniform)
    adjoint: bool = False

    solves_ode: ClassVar[bool] = True
    method: ClassVar[str]
    calls: ClassVar[int]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}, but {type(self).__name__} needs at least 1; try 20.")

    @property
    def evaluations(self) -> int:
        return self.steps * self.calls

    def last_time(self, path: Any, t_min: float) -> float:
        return self.grid.last_time(path, self.steps, t_min)

    def stage_times(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        return stage_values(self.grid(t_start, t_end, self.steps, path), STEPS[self.method][0])

    def call_weights(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        return None if self.adjoint else call_weights(self.grid(t_start, t_end, self.steps, path), self.method)

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        check_times(denoiser, t_start, t_end)
        times = self.grid(t_start, t_end, self.steps, getattr(denoiser, "path", None))
        if self.adjoint:
            call, args = bound(denoiser)
            return fixed_steps(call, x, times, self.method, args=args, adjoint=True)
        return fixed_steps(lambda x, t: denoiser(x, t).velocity, x, times, self.method)


def check_times(denoiser: Callable[[Tensor, Tensor], Any], *times: float) -> None:
    """Refuse times outside the interval on which a denoiser's path is defined.

    Raises:
        UserError: one of them is.
    """
    path = getattr(denoiser, "path", None)
    if path is None:
        return
    low, high = path.interval
    for t in times:
        if not low - SLACK <= t <= high + SLACK:
            raise UserError(f"t is {t:g}, but {path} is defined from {low:g} to {high:g}; stay inside, as model.interval does.")


def bound(denoiser: Callable[[Tensor, Tensor], Any]) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """Return velocity(x, t, *args) and args: what a denoiser reads for each sample, or nothing where it does not say."""
    bind = getattr(denoiser, "bind", None)
    if bind is None:
        return lambda x, t: denoiser(x, t).velocity, ()
    return lambda x, t, *args: bind(*args)(x, t).velocity, denoiser.args  # type: ignore[attr-defined]
