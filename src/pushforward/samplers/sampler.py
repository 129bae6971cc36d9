"""The base classes of samplers: frozen objects called as sampler(denoiser, x, t_start, t_end, generator).

`denoiser(x, t)` takes x (n, *shape) and t (n,) and returns something with `.velocity`, `.data`, `.noise` and `.score`. A sampler that only
uses the velocity solves the ODE, in either direction of time, and can therefore compute a likelihood.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Protocol

from torch import Tensor

from pushforward import _random
from pushforward._checks import CheckedNumbers, whole
from pushforward.adaptive import adaptive_steps, check_tolerances
from pushforward.attempts import adaptive_attempts
from pushforward.dispatch import ability
from pushforward.errors import UserError, missing
from pushforward.fields import WIDE, widened
from pushforward.ode import fixed_steps, fixed_steps_with_rates, stage_values
from pushforward.samplers.grids import Grid, Uniform
from pushforward.samplers.state import State
from pushforward.tableaux import Tableau
from pushforward.types import Bindable, path_of

SLACK = 1e-9  # tolerance for float32 times and clipped ends


class Growing(Protocol):
    """A field with additional quantities that are integrated along the trajectory and do not influence it: a log-determinant, costs."""

    @property
    def path(self) -> Any: ...

    def value(self, x: Tensor, t: Tensor) -> Tensor:
        """Return dx/dt."""
        ...

    def value_and_rates(self, x: Tensor, t: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Return dx/dt and the time derivatives of the additional quantities, each (n,)."""
        ...


class Integrates(Protocol):
    """An optional ability of a sampler, see `dispatch.ability`: a class that overrides `__call__` but not `with_rates` lacks it.

    Its loop integrates the additional rates with its own weights, separately from the state; for other samplers they are part of the state.
    """

    def with_rates(self, field: Growing, x: Tensor, t_start: float, t_end: float) -> tuple[Tensor, list[Tensor]]: ...


class Sampler(CheckedNumbers):
    """Maps x at t_start to t_end; to add one, implement `__call__` and set whether it solves the ODE (`solves_ode`)."""

    solves_ode: ClassVar[bool] = False
    jumps: ClassVar[bool] = False  # whether it needs a flow map, a denoiser with a method jump(x, t, r)

    @property
    def evaluations(self) -> int | None:
        """Number of network evaluations per sample, or None if it depends on the sample."""
        return None

    def stage_times(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        """Return all times at which the network is called, each for the full batch, or None if they are not known in advance.

        It is a hint, with which a network can precompute terms that depend only on time; a wrong hint does not change results.
        """
        return None

    def step_times(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        """Return the times between which it steps, from t_start to t_end, or None if they depend on the sample."""
        return None

    def last_time(self, path: Any, t_min: float) -> float:
        """Return the time to which a model samples; if sigma is not 0 there, it takes the expected data as a last step.

        t_min, the least time of the model; or 0 if the sampler's own last step is to the expected data, as for a `LinearSampler` on a
        discrete path.
        """
        return t_min

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        """Return the state at t_end (n, *shape).

        Args:
            denoiser: maps x (n, *shape) and t (n,) to a prediction.
            x: state at t_start (n, *shape); it is not modified.
            t_start: start time.
            t_end: end time.
            generator: randomness of a stochastic sampler.
        """
        raise missing(self, "__call__", "the state at t_end")

    def iterate(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Iterator[State]:
        """Yield the state after each step (t, x, prediction), one step at a time; the last x is that of a call, bit for bit.

        A step of a diffusion sampler is one evaluation, also where two belong together (EDM, 2S) or are at the same time
        (PredictorCorrector). One of a method with adaptive steps is an attempt, after which each sample is at its own time.

        Args:
            denoiser: maps x (n, *shape) and t (n,) to a prediction.
            x: state at t_start (n, *shape); it is not modified.
            t_start: start time.
            t_end: end time.
            generator: randomness of a stochastic sampler.

        Raises:
            UserError: a sampler of your own that has a `__call__` alone.

        Example:
            >>> import pushforward as pf
            >>> model = pf.families.PathModel(pf.nn.MLP(2, 2, (8,), time_features=4), (2,))
            >>> for t, x, prediction in pf.samplers.DDIM(2).iterate(model.denoiser(), model.base.sample(3), 1.0, 0.0):
            ...     print(t, prediction.data.shape)
            0.5 torch.Size([3, 2])
            0.0 torch.Size([3, 2])
        """
        states = ability(self, "_states", ("__call__",))
        if states is None:
            raise UserError(f"{type(self).__name__} has a __call__ of its own, which takes all steps; use another sampler to iterate.")
        return iter(states(denoiser, x, t_start, t_end, generator))


@dataclass(frozen=True)
class FixedStepSampler(Sampler):
    """A Runge-Kutta method with the steps of a grid; to add one, derive a class that has a `tableau`.

    Args:
        steps: number of steps.
        grid: where the steps lie.
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
        super().__post_init__()
        if self.steps < 1:
            raise UserError(f"steps is {self.steps}, but {type(self).__name__} needs at least 1; try 20.")

    @property
    def evaluations(self) -> int:
        return self.steps * self.tableau.evaluations

    def last_time(self, path: Any, t_min: float) -> float:
        return self.grid.last_time(path, self.steps, t_min)

    def step_times(self, path: Any, t_start: float, t_end: float) -> list[float]:
        times: list[float] = self.grid(t_start, t_end, self.steps, path)
        return times

    def stage_times(self, path: Any, t_start: float, t_end: float) -> list[float] | None:
        return stage_values(self.step_times(path, t_start, t_end), self.tableau.plan.nodes)

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        check_times(denoiser, t_start, t_end)
        times = self.grid(t_start, t_end, self.steps, path_of(denoiser))
        if self.adjoint:
            call, args = bound(denoiser)
            return fixed_steps(call, x, times, self.tableau, args=args, adjoint=True)
        return fixed_steps(lambda x, t: denoiser(x, t).velocity, x, times, self.tableau)

    def _states(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators
    ) -> Iterator[State]:
        check_times(denoiser, t_start, t_end)
        made: list[Any] = []  # the predictions of a step, the first at its start

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            made.append(denoiser(x, t))
            value: Tensor = made[-1].velocity
            return value

        own, call = x.dtype, velocity
        if own not in WIDE:
            call, x = widened(velocity, x)
        for ends in pairwise(self.grid(t_start, t_end, self.steps, path_of(denoiser))):
            x = fixed_steps(call, x, ends, self.tableau)
            yield State(ends[1], x.to(own), made[0])
            made.clear()

    def with_rates(self, field: Growing, x: Tensor, t_start: float, t_end: float) -> tuple[Tensor, list[Tensor]]:
        """Return the state at t_end and the integrals of additional rates, which are not part of the state (see `Integrates`)."""
        if self.adjoint:
            return NotImplemented
        check_times(field, t_start, t_end)
        times = self.grid(t_start, t_end, self.steps, field.path)
        return fixed_steps_with_rates(field.value, field.value_and_rates, x, times, self.tableau)


@dataclass(frozen=True)
class AdaptiveSampler(Sampler):
    """A Runge-Kutta method with adaptive steps; to add one, derive a class whose `tableau` has error weights.

    Each sample has its own steps, and a finished one costs nothing more. Along a path whose velocity varies on the scale of t itself
    (`path.log`), steps are taken in log(t).

    Args:
        rtol: tolerance relative to the state.
        atol: absolute tolerance, in units of the model's (preprocessed) data.
        max_steps: maximum number of attempted steps.
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
        super().__post_init__()
        whole("max_steps", self.max_steps, 1)
        check_tolerances(self.rtol, self.atol)

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        call, args = bound(denoiser)
        options = self._options(denoiser, t_start, t_end)
        return adaptive_steps(call, x, t_start, t_end, args, self.tableau, adjoint=self.adjoint, **options)

    def _states(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators
    ) -> Iterator[State]:
        call, args = bound(denoiser)
        options = self._options(denoiser, t_start, t_end)
        for t, state in adaptive_attempts(call, x, t_start, t_end, args, self.tableau, **options):
            yield State(t, state, None)

    def _options(self, denoiser: Any, t_start: float, t_end: float) -> dict[str, Any]:
        """Return the options of a solve between these times."""
        check_times(denoiser, t_start, t_end)
        path = path_of(denoiser)
        # A bare function may capture conditions of the full batch: samples do not leave the batch then.
        return {
            "rtol": self.rtol,
            "atol": self.atol,
            "max_steps": self.max_steps,
            "leave": isinstance(denoiser, Bindable),
            "log": path is not None and path.log and min(t_start, t_end) > 0,
        }


def _check_tableau(kind: type, error: bool = False) -> None:
    tableau = getattr(kind, "tableau", None)
    if not isinstance(tableau, Tableau):
        raise UserError(f"{kind.__name__}.tableau is {tableau!r}, but a Runge-Kutta method is a pf.ode.Tableau; write one into the class.")
    if error and not tableau.error:
        raise UserError(f"{kind.__name__}.tableau has no error weights, by which steps adapt; give them or derive from FixedStepSampler.")


def check_times(denoiser: Any, *times: float) -> None:
    """Raise an error for times outside the interval on which a denoiser's path is defined.

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
    """Return velocity(x, t, *args) and args: a denoiser's per-sample arguments, or () if it is not `Bindable`."""
    bindable: Any = denoiser
    if not isinstance(bindable, Bindable):
        return lambda x, t: denoiser(x, t).velocity, ()
    return lambda x, t, *args: bindable.bind(*args)(x, t).velocity, bindable.args
