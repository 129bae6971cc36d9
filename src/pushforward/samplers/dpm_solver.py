"""DPM-Solver++: the linear part of the ODE is solved exactly, and the data prediction is extrapolated in log-SNR."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal, get_args

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export, unknown
from pushforward.samplers.brownian import NOISES, Noise
from pushforward.samplers.clipping import Clipping
from pushforward.samplers.grids import Grid, LogSNR, clock
from pushforward.samplers.knots import Knots
from pushforward.samplers.linear import LinearSampler, Point, Step, first_order, points
from pushforward.samplers.orders import FEW, orders

Variant = Literal["1S", "2S", "2M", "3M", "SDE-2M"]
SolverType = Literal["midpoint", "heun"]


def _example(steps: int = 20) -> "DPMSolverPP":
    return DPMSolverPP(steps)


@export("samplers.DPMSolverPP", example=_example, order=2)
@dataclass(frozen=True)
class DPMSolverPP(LinearSampler):
    """Integrate the data prediction over lambda = log(alpha / sigma); the rest of the ODE is solved in closed form.

        x_s = sigma_s / sigma_t x_t + sigma_s integral from lambda_t to lambda_s of exp(lambda) data(x_lambda) d lambda

    With h = lambda_s - lambda_t, "2M" extrapolates data linearly through its last two values:
    x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) (data + (h / 2 h_before) (data - data_before)); its form "heun" integrates the line
    exactly, with the factor h / h_before (1 - (1 - exp(-h)) / h) alpha_s of the difference.

    Args:
        steps: number of steps.
        variant: "1S" (first order: DDIM), "2S" (second, two evaluations a step), "2M" (second, one evaluation a step), "3M" (third, one
            evaluation a step and one more to start) or "SDE-2M" (stochastic, as DDPM is, with 2M's extrapolation). On the grid `Knots`
            the inner evaluations of "2S" and "3M" are knots too, so that these also have one evaluation a step.
        noise: of "SDE-2M": "fresh" at each step, or "brownian": a function of seed and time.
        grid: where the steps lie; equal steps in lambda by default.
        lower_order_final: for "2M", "3M" and "SDE-2M" with fewer than 15 steps, whether the last step is of first order and the one before
            of second at most: as long as these steps extrapolation costs more than it gains.
        solver_type: "midpoint" or "heun", how steps of second order weight the difference of two data predictions.
        clip: how the data prediction is clipped, or None; a sampler that clips solves no ODE.

    Raises:
        UserError: an unknown variant, noise or solver_type.

    Source: Lu et al., DPM-Solver++, 2211.01095, algorithms 1 (2S) and 2 (2M), section 5 (SDE); lower_order_final and solver_type as in
    the authors' code and diffusers. Ours: where lambda is infinite, at the ends of some paths, steps are of first order. 3M is third order,
    unlike the usual code (diffusers, k-diffusion): it starts with a step of 2S instead of one of first order, and the parabola's second
    coefficient is twice theirs, as its integral requires.
    """

    steps: int = 20
    variant: Variant = "2M"
    noise: Noise = "fresh"
    grid: Grid = field(default_factory=LogSNR)
    lower_order_final: bool = True
    solver_type: SolverType = "midpoint"
    clip: Clipping | None = None

    spare: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        options = (("variant", get_args(Variant)), ("noise", NOISES), ("solver_type", get_args(SolverType)))
        for name, allowed in options:
            if getattr(self, name) not in allowed:
                raise UserError(unknown(name, str(getattr(self, name)), allowed))

    @property
    def stochastic(self) -> bool:
        return self.variant == "SDE-2M"

    @property
    def evaluations(self) -> int:
        more = {} if isinstance(self.grid, Knots) else {"2S": self.steps, "3M": 1}
        return self.steps + more.get(self.variant, 0)

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        return self._through(path, points(path, times))

    def plan_to_data(self, path: Path, times: Sequence[float]) -> list[Step]:
        return [*(self._through(path, points(path, times), after=1) if len(times) > 1 else ()), *self.finish(path, times[-1])]

    def _through(self, path: Path, knots: list[Point], after: int = 0) -> list[Step]:
        """Return the steps from knot to knot, which `after` more follow."""
        if self.variant == "1S":
            return [first_order(p, q) for p, q in pairwise(knots)]
        if self.variant == "2S":
            ways = _triples(knots) if isinstance(self.grid, Knots) else [(p, _middle(path, p, q), q) for p, q in pairwise(knots)]
            return [step for way in ways for step in self._single(*way)]
        lower = self.lower_order_final and self.steps < FEW
        if self.variant == "3M":
            visited = knots if isinstance(self.grid, Knots) else [knots[0], _middle(path, *knots[:2]), *knots[1:]]
            rest = list(enumerate(orders(3, len(visited) - 1, after, lower)))[2:]
            return [*self._single(*visited[:3]), *(self._multistep(visited[k - 2 : k + 1], visited[k + 1], order) for k, order in rest)]
        rest = list(enumerate(orders(2, len(knots) - 1, after, lower)))
        return [self._multistep(knots[max(0, k - 1) : k + 1], knots[k + 1], order) for k, order in rest]

    def _multistep(self, known: list[Point], q: Point, order: int) -> Step:
        """Return the step of an order from the last known point to q."""
        if order == 3:
            return self._third(known[-3], known[-2], known[-1], q)
        return self._second(known[-2], known[-1], q) if order == 2 else first_order(known[-1], q, float(self.stochastic))

    def _second(self, o: Point, p: Point, q: Point) -> Step:
        """Return the step from p to q with data on a line through o and p."""
        step = first_order(p, q, float(self.stochastic))
        h, h_before = q.log_snr - p.log_snr, p.log_snr - o.log_snr
        if not (math.isfinite(h) and math.isfinite(h_before)):
            return step
        weight = self._slope(q.alpha - p.alpha * step.noise / p.sigma, q.alpha, h) * h / h_before
        return step._replace(data=step.data + weight, past=((0.0, -weight),))

    def _slope(self, reach: float, alpha: float, h: float) -> float:
        """Return the weight of h times the slope of data in lambda, where that of data itself is `reach`."""
        if self.solver_type == "midpoint":
            return reach / 2
        decay = 2 * h if self.stochastic else h
        return alpha * (1 + math.expm1(-decay) / decay)

    def _third(self, n: Point, o: Point, p: Point, q: Point) -> Step:
        """Return the step from p to q with data on a parabola through n, o and p."""
        h, r0, r1 = q.log_snr - p.log_snr, p.log_snr - o.log_snr, o.log_snr - n.log_snr
        if not (math.isfinite(h) and math.isfinite(r0) and math.isfinite(r1)):
            return self._second(o, p, q)
        step, r0, r1 = first_order(p, q), r0 / h, r1 / h
        decay = math.expm1(-h)
        slope, bend = q.alpha * (decay / h + 1), -2 * q.alpha * ((decay + h) / h**2 - 0.5)
        recent = (slope * (1 + r0 / (r0 + r1)) + bend / (r0 + r1)) / r0  # the weight of data_p - data_o
        older = -(slope * r0 + bend) / (r0 + r1) / r1  # and of data_o - data_n
        return step._replace(data=step.data + recent, past=((0.0, older - recent), (0.0, -older)))

    def _single(self, p: Point, middle: Point, q: Point | None = None) -> list[Step]:
        """Return the two steps from p to q; the second covers the full interval, with data on a line through p and the middle.

        x_q = kept x_p + reach data_p + slope (data_middle - data_p) / r, where reach is alpha_q - kept alpha_p, slope half of that
        ("midpoint") and r the middle's fraction of the interval in lambda. Without q it is the step of first order to the middle.
        """
        if q is None:
            return [first_order(p, middle)]
        if not (math.isfinite(p.log_snr) and math.isfinite(q.log_snr)):
            return [first_order(p, middle), first_order(middle, q)]
        h = q.log_snr - p.log_snr
        kept, share = q.sigma / p.sigma, (middle.log_snr - p.log_snr) / h
        reach = q.alpha - kept * p.alpha
        recent = self._slope(reach, q.alpha, h) / share
        return [first_order(p, middle), Step(middle.t, data=recent, past=((kept, reach - recent),))]


def _middle(path: Path, p: Point, q: Point) -> Point:
    """Where lambda is half-way from p to q; half-way in t where it is infinite."""
    t = (p.t + q.t) / 2
    if math.isfinite(p.log_snr) and math.isfinite(q.log_snr):
        t = float(path.time(clock(path, [(p.log_snr + q.log_snr) / 2])))
    return points(path, [t])[0]


def _triples(knots: list[Point]) -> list[tuple[Point, ...]]:
    """The knots in pairs: each step skips one knot; a single remaining knot is a step of first order."""
    return [tuple(knots[k : k + 3]) for k in range(0, len(knots) - 1, 2)]
