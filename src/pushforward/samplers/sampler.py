"""What all samplers share: a frozen object called as sampler(denoiser, x, t_start, t_end, generator).

`denoiser(x, t)` takes x (n, *shape) and t (n,) and returns something with `.velocity`, `.data`, `.noise` and `.score`. A sampler that only
reads the velocity solves the ODE, in either direction of time, and can therefore carry a likelihood.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from pushforward import _random
from pushforward.adaptive import adaptive_steps, check_tolerances
from pushforward.errors import UserError
from pushforward.ode import fixed_steps, fixed_steps_with_rates, stage_values
from pushforward.samplers.grids import Grid, Uniform
from pushforward.tableaux import Tableau
from pushforward.types import Bindable, path_of

SLACK = 1e-9  # what float32 clocks and clipped ends may be off


class Growing(Protocol):
    """A field with quantities that grow along the way and do not act back on it: a log-determinant, costs."""

    @property
    def path(self) -> Any: ...

    def value(self, x: Tensor, t: Tensor) -> Tensor:
        """Return dx/dt."""
        ...

    def value_and_rates(self, x: Tensor, t: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Return dx/dt and the rates of growth, each (n,)."""
        ...


class Integrates(Protocol):
    """An optional ability of a sampler, asked for by `dispatch.ability`: a class that overrides `__call__` but not this one lacks it.

    Its loop gathers rates of growth by its own weights, beside the state; for any other sampler they are part of the state.
    """

    def with_rates(self, field: Growing, x: Tensor, t_start: float, t_end: float) -> tuple[Tensor, list[Tensor]]: ...


class Sampler:
    """A way from x at t_start to t_end; to add one, write `__call__` and say whether it solves the ODE."""

    solves_ode: ClassVar[bool] = False

    @property
    def evaluations(self) -> int | None:
        """How often the network is called for each sample, or None if that depends on the sample."""
        return None

    def stage_times(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        """Return all times at which the network is called, each for the whole batch, or None where that is not known beforehand.

        It is a hint, by which a network computes what depends on time alone in one go; a wrong one changes no number.
        """
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
    """A Runge-Kutta method over the steps of a grid; to add one, derive a class that has a `tableau`.

    Args:
        steps: number of steps.
        grid: where they lie.
        adjoint: whether gradients come from the adjoint ODE, in memory that does not grow with the steps (see `ode.odeint`).
    """

    steps: int = 20
    grid: Grid = field(default_factory=Uniform)
    adjoint: bool = False

    solves_ode: ClassVar[bool] = True
    tableau: ClassVar[Tableau]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "tableau" in vars(cls):
            _check_tableau(cls)

    def __post_init__(self) -> None:
        _check_tableau(type(self))
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}, but {type(self).__name__} needs at least 1; try 20.")

    @property
    def evaluations(self) -> int:
        return self.steps * self.tableau.evaluations

    def last_time(self, path: Any, t_min: float) -> float:
        return self.grid.last_time(path, self.steps, t_min)

    def stage_times(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        return stage_values(self.grid(t_start, t_end, self.steps, path), self.tableau.plan.nodes)

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        check_times(denoiser, t_start, t_end)
        times = self.grid(t_start, t_end, self.steps, path_of(denoiser))
        if self.adjoint:
            call, args = bound(denoiser)
            return fixed_steps(call, x, times, self.tableau, args=args, adjoint=True)
        return fixed_steps(lambda x, t: denoiser(x, t).velocity, x, times, self.tableau)

    def with_rates(self, field: Growing, x: Tensor, t_start: float, t_end: float) -> tuple[Tensor, list[Tensor]]:
        """Return the state at t_end and the integrals of what grows along the way, which take no part in the state (see `Integrates`)."""
        if self.adjoint:
            return NotImplemented
        check_times(field, t_start, t_end)
        times = self.grid(t_start, t_end, self.steps, field.path)
        return fixed_steps_with_rates(field.value, field.value_and_rates, x, times, self.tableau)


@dataclass(frozen=True)
class AdaptiveSampler(Sampler):
    """A Runge-Kutta method whose steps are as long as the tolerance allows; to add one, derive a class whose `tableau` has error weights.

    Each sample has its own steps, and one that has arrived costs nothing more. Along a path whose velocity varies on the scale of t itself
    (`path.log`) steps are taken in log(t).

    Args:
        rtol: tolerance relative to the state.
        atol: absolute tolerance, in units of the model's (preprocessed) data.
        max_steps: most steps that may be tried.
        adjoint: whether gradients come from the adjoint ODE, in memory that does not grow with the steps (see `ode.odeint`).
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000
    adjoint: bool = False

    solves_ode: ClassVar[bool] = True
    tableau: ClassVar[Tableau]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "tableau" in vars(cls):
            _check_tableau(cls, error=True)

    def __post_init__(self) -> None:
        _check_tableau(type(self), error=True)
        check_tolerances(self.rtol, self.atol)

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        check_times(denoiser, t_start, t_end)
        options: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps, "adjoint": self.adjoint}
        options["log"] = getattr(path_of(denoiser), "log", False) and min(t_start, t_end) > 0
        call, args = bound(denoiser)
        # A bare function may hold the whole batch's conditions: nobody leaves the batch then.
        return adaptive_steps(call, x, t_start, t_end, args, self.tableau, leave=isinstance(denoiser, Bindable), **options)


def _check_tableau(kind: type, error: bool = False) -> None:
    tableau = getattr(kind, "tableau", None)
    if not isinstance(tableau, Tableau):
        raise UserError(f"{kind.__name__}.tableau is {tableau!r}, but a Runge-Kutta method is a pf.ode.Tableau; write one into the class.")
    if error and not tableau.error:
        raise UserError(f"{kind.__name__}.tableau has no error weights, by which steps adapt; give them or derive from FixedStepSampler.")


def check_times(denoiser: Any, *times: float) -> None:
    """Refuse times outside the interval on which a denoiser's path is defined.

    Raises:
        UserError: one of them is.
    """
    path = path_of(denoiser)
    if path is None:
        return
    low, high = path.interval
    for t in times:
        if not low - SLACK <= t <= high + SLACK:
            raise UserError(f"t is {t:g}, but {path} is defined from {low:g} to {high:g}; stay inside, as model.interval does.")


def bound(denoiser: Callable[[Tensor, Tensor], Any]) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
    """Return velocity(x, t, *args) and args: what a denoiser reads for each sample, or nothing where it does not say."""
    bindable: Any = denoiser
    if not isinstance(bindable, Bindable):
        return lambda x, t: denoiser(x, t).velocity, ()
    return lambda x, t, *args: bindable.bind(*args)(x, t).velocity, bindable.args
