"""One loop for all diffusion samplers: each step is a weighted sum of a few tensors, with weights known in advance.

A step from t evaluates the network at (x, t), converts its prediction to data and noise, and computes

    x' = state x + data data(x, t) + noise noise(x, t) + sum_j (past state_j x_j + past data_j data(x_j, t_j)) + random xi,

where x_j is the state j evaluations ago and xi is standard normal (times exp(spread share) if the network predicts a share of the
variance). A sampler is its list of such steps (`plan`). As data and noise are a x + b value for any kind of prediction, the loop only
adds multiples of states and outputs.

On a discrete path of T knots `t_end = 0` means the data: N steps evaluate the network at N times, none below the first knot, t = 1 / T,
and the last step is to the expected data for every sampler. Between knots (`encode`, `decode`) it is solved like any path.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from pushforward import _random
from pushforward.dispatch import ability
from pushforward.errors import UserError, missing
from pushforward.functional.prediction import Kind
from pushforward.ode import stage_times
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.samplers.brownian import Noise, noise_source
from pushforward.samplers.clipping import Clipping
from pushforward.samplers.grids import Grid, clock
from pushforward.samplers.knots import checked_knots
from pushforward.samplers.sampler import SLACK, Sampler, check_times
from pushforward.samplers.state import State
from pushforward.types import path_of

TARGETS: tuple[Kind, Kind] = ("data", "noise")


class Step(NamedTuple):
    """The weights of one step, evaluated at t."""

    t: float
    data: float = 0.0
    noise: float = 0.0
    state: float = 0.0
    past: tuple[tuple[float, float], ...] = ()  # of (x_j, data_j), the latest first
    random: float = 0.0
    spread: float = 0.0  # log of the largest standard deviation over the smallest (`random`)


class Point(NamedTuple):
    """A path at one time."""

    t: float
    alpha: float
    sigma: float
    log_snr: float


def points(path: Path, times: Sequence[float]) -> list[Point]:
    """Return the path at these times."""
    t = clock(path, times)
    return [Point(*row) for row in zip(times, path.alpha(t).tolist(), path.sigma(t).tolist(), path.log_snr(t).tolist(), strict=True)]


def first_order(p: Point, q: Point, eta: float = 0.0) -> Step:
    """Return DDIM's step from p to q: data and noise are treated as constant, and a share eta of the noise is redrawn."""
    fresh = eta * q.sigma * math.sqrt(max(0.0, 1 - (p.alpha * q.sigma / (q.alpha * p.sigma)) ** 2)) if eta else 0.0
    return Step(p.t, q.alpha, math.sqrt(q.sigma**2 - fresh**2), random=fresh)


def halves(path: Path, p: Point, q: Point) -> list[Step]:
    """Return two steps of first order, for samplers with two evaluations per step, whose own are undefined where alpha or sigma is 0."""
    (middle,) = points(path, [(p.t + q.t) / 2])
    return [first_order(p, middle), first_order(middle, q)]


class LinearSampler(Sampler):
    """A sampler defined by its plan; to add one, write a frozen dataclass with `steps` and `grid`, and implement `plan`."""

    steps: int
    grid: Grid
    clip: Clipping | None = None
    least: ClassVar[int] = 1
    spare: ClassVar[int] = 0  # extra knots that diffusers' scheduler for this sampler spaces and omits at the end

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < self.least:
            raise UserError(f"steps is {self.steps}, but {type(self).__name__} needs at least {self.least}; try 20.")

    @property
    def stochastic(self) -> bool:
        """Whether its steps draw noise."""
        return False

    @property
    def noise_kind(self) -> Noise:
        """The source of its noise."""
        return getattr(self, "noise", "fresh")

    @property
    def solves_ode(self) -> bool:  # type: ignore[override]
        """Whether it solves the ODE, in either direction of time."""
        return not self.stochastic and self.clip is None

    @property
    def evaluations(self) -> int:
        return self.steps

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        """Return the steps from times[0] to times[-1]."""
        raise missing(self, "plan", "a list of `Step`s")

    def plan_to_data(self, path: Path, times: Sequence[float]) -> list[Step]:
        """Return the steps through these times of a discrete path, followed by those to the expected data (`finish`)."""
        return [*(self.plan(path, times) if len(times) > 1 else ()), *self.finish(path, times[-1])]

    def finish(self, path: Path, t: float) -> list[Step]:
        """Return the last step on a discrete path, from the last time at which the network is evaluated to the expected data."""
        return [Step(t, data=1.0)]

    def last_time(self, path: Path, t_min: float) -> float:
        to_data = path.knots is not None and t_min <= path.interval[0] + SLACK
        return 0.0 if to_data else self.grid.last_time(path, self.steps, t_min)

    def way(self, path: Path, t_start: float, t_end: float) -> list[Step]:
        """Return all steps from t_start to t_end.

        Raises:
            UserError: more steps than a discrete path has knots, or a grid that leaves the path.
        """
        to_data = _is_data(path, t_end)
        if path.knots is not None:
            checked_knots(path, self.steps, t_start if to_data else 1.0)
        if not to_data:
            return self.plan(path, self.grid(t_start, t_end, self.steps, path))
        *times, end = self.grid.to_data(t_start, self.steps, path, self.spare)
        if min(times) < path.interval[0] - SLACK:
            raise UserError(f"{self.grid} goes to t = {min(times):g}, but the first knot of {path} is {path.interval[0]:g}; stay above it.")
        if end == 0:
            return self.plan_to_data(path, times)
        if times[-1] - end > SLACK:
            return self.plan(path, [*times, end])
        (p,) = points(path, [end])  # the last evaluation is at the end already, and changes nothing
        return [*(self.plan(path, times) if len(times) > 1 else ()), first_order(p, p)]

    def step_times(self, path: Any, t_start: float, t_end: float) -> list[float]:
        return [*(step.t for step in self.way(path, t_start, t_end)), t_end]

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        for state in self._states(denoiser, x, t_start, t_end, generator):
            x = state.x
        return x

    def _states(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators
    ) -> Iterator[State]:
        path = path_of(denoiser)
        if path is None:
            raise UserError(f"{type(self).__name__} needs a denoiser with a path; use Euler or Dopri5 for a bare velocity.")
        check_times(denoiser, t_start, *(() if _is_data(path, t_end) else (t_end,)))
        if self.stochastic and t_end > t_start:
            raise UserError(
                f"t goes from {t_start:g} to {t_end:g}, but {type(self).__name__} draws noise: it goes from noise to data only."
            )
        from pushforward.fast import programs  # fast ways are read at their first use

        program = programs.kept(_Program, self, path, t_start, t_end)
        ends, randoms, spreads, held = program.ends, program.randoms, program.spreads, program.held
        call = (ability(denoiser, "with_variance") if any(spreads) else None) or denoiser
        draw = noise_source(self.noise_kind, x, generator) if self.stochastic else None
        weights: Sequence[tuple[float, ...]] = ()
        data: Sequence[tuple[float, float]] = ()
        before: list[Tensor] = []  # states and the network's outputs for them, the latest first
        for k, (_, (t,)) in enumerate(stage_times(x, ends, (0.0,))):
            prediction = call(x, t)
            kind: Kind = prediction.kind if isinstance(prediction, Prediction) else "velocity"
            value = prediction.velocity if kind == "velocity" else prediction.value
            weights = weights or program.weights(kind)
            change = None
            if self.clip is not None:
                data = data or program.data(kind)
                value, change = self.clip.applied(x, value, *data[k])
            of_x, of_value, *of_before = weights[k]
            after = torch.mul(x, of_x).add_(value, alpha=of_value)
            if change is not None:
                after.add_(change, alpha=program.steps[k].data)
            for weight, one in zip(of_before, before, strict=False):
                after.add_(one, alpha=weight)
            if randoms[k]:
                assert draw is not None
                xi = draw(ends[k], ends[k + 1])
                share = prediction.share if spreads[k] and isinstance(prediction, Prediction) else None
                after.add_(xi if share is None else xi * torch.exp(share.clamp(0, 1) * spreads[k]), alpha=randoms[k])
            if held:
                before = [x, value, *before[: held - 2]]
            x = after
            yield State(ends[k + 1], x, prediction)


def _is_data(path: Path, t: float) -> bool:
    return t == 0 and path.knots is not None


class _Program:
    """A sampler's steps along a path: the weight of each tensor, for each kind of prediction."""

    def __init__(self, sampler: LinearSampler, path: Path, t_start: float, t_end: float) -> None:
        if torch.is_grad_enabled() and path.log_snr(clock(path, (t_start,))).requires_grad:
            raise UserError(
                f"{type(sampler).__name__} reads {type(path).__name__} as numbers, so that gradients would miss the schedule's parameters; "
                "use Euler(n) or Dopri5(), whose weights are differentiable, or torch.no_grad()."
            )
        with torch.no_grad():
            self.path, self.steps = path, sampler.way(path, t_start, t_end)
        if not sampler.stochastic and any(step.random for step in self.steps):
            raise UserError(
                f"the plan of {type(sampler).__name__} adds noise (Step.random), but its property stochastic is False; return True from it."
            )
        self.ends = [*(step.t for step in self.steps), t_end]
        self.randoms, self.spreads = [step.random for step in self.steps], [step.spread for step in self.steps]
        self.held = 2 * max(len(step.past) for step in self.steps)
        self._weights: dict[Kind, list[tuple[float, ...]]] = {}

    def data(self, kind: Kind) -> list[tuple[float, float]]:
        """Return for each step the factors of x and of the network's output in the data prediction."""
        return _floats(self.path.coefficients(kind, "data", clock(self.path, [step.t for step in self.steps])), len(self.steps))

    def weights(self, kind: Kind) -> list[tuple[float, ...]]:
        """Return for each step the factors of x and of the network's output, then those of the previous evaluation, and so on."""
        if kind not in self._weights:
            self._weights[kind] = _weights(self.path, kind, self.steps)
        return self._weights[kind]


def _weights(path: Path, kind: Kind, steps: list[Step]) -> list[tuple[float, ...]]:
    t = clock(path, [step.t for step in steps])
    data, noise = (_floats(path.coefficients(kind, target, t), len(steps)) for target in TARGETS)
    rows = []
    for k, step in enumerate(steps):
        of_x, of_value = step.state, 0.0
        if step.data:  # with a weight of 0 the coefficients may be infinite
            of_x, of_value = step.data * data[k][0], step.data * data[k][1]
            of_x += step.state
        if step.noise:
            of_x, of_value = of_x + step.noise * noise[k][0], of_value + step.noise * noise[k][1]
        row = [of_x, of_value]
        for back, (state, weight) in enumerate(step.past, start=1):
            row += [state + weight * data[k - back][0], weight * data[k - back][1]] if weight else [state, 0.0]
        rows.append(tuple(row))
    return rows


def _floats(coefficients: tuple[Tensor | float, Tensor | float], n: int) -> list[tuple[float, float]]:
    a, b = ([one] * n if isinstance(one, float) else one.tolist() for one in coefficients)
    return list(zip(a, b, strict=True))
