"""DPM-Solver++: the linear part of the ODE is solved exactly, and the data prediction is extrapolated in log-SNR."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

from pushforward.errors import UserError
from pushforward.paths import Path
from pushforward.registry import export, unknown
from pushforward.samplers.brownian import NOISES, Noise
from pushforward.samplers.grids import Grid, LogSNR, clock
from pushforward.samplers.knots import Knots
from pushforward.samplers.linear import LinearSampler, Point, Step, first_order, points

Variant = Literal["1S", "2S", "2M", "3M", "SDE-2M"]
VARIANTS: tuple[Variant, ...] = ("1S", "2S", "2M", "3M", "SDE-2M")


def _example(steps: int = 20) -> "DPMSolverPP":
    return DPMSolverPP(steps)


@export("samplers.DPMSolverPP", example=_example, order=2)
@dataclass(frozen=True)
class DPMSolverPP(LinearSampler):
    """Integrate the data prediction over lambda = log(alpha / sigma); the rest of the ODE is solved in closed form.

        x_s = sigma_s / sigma_t x_t + sigma_s integral from lambda_t to lambda_s of exp(lambda) data(x_lambda) d lambda

    With h = lambda_s - lambda_t, "2M" extrapolates data linearly through its last two values:
    x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) (data + (h / 2 h_before) (data - data_before)).

    Args:
        steps: number of steps.
        variant: "1S" (first order: DDIM), "2S" (second, two evaluations a step), "2M" (second, one evaluation a step), "3M" (third, one
            evaluation a step and one more to start) or "SDE-2M" (stochastic, as DDPM is, with 2M's extrapolation). On the grid `Knots`
            the inner evaluations of "2S" and "3M" are knots too, so that these also have one evaluation a step.
        noise: of "SDE-2M": "fresh" at each step, or "brownian": a function of seed and time.
        grid: where the steps lie; equal steps in lambda by default.

    Raises:
        UserError: an unknown variant or noise.

    Source: Lu et al., DPM-Solver++, 2211.01095, algorithms 1 (2S) and 2 (2M), section 5 (SDE). Ours: where lambda is infinite, at the ends
    of some paths, steps are of first order. 3M is third order, unlike the usual code (diffusers, k-diffusion): it starts with a step of 2S
    instead of one of first order, and the parabola's second coefficient is twice theirs, as its integral requires.
    """

    steps: int = 20
    variant: Variant = "2M"
    noise: Noise = "fresh"
    grid: Grid = field(default_factory=LogSNR)

    spare: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, allowed in (("variant", self.variant, VARIANTS), ("noise", self.noise, NOISES)):
            if value not in allowed:
                raise UserError(unknown(name, str(value), allowed))

    @property
    def stochastic(self) -> bool:
        return self.variant == "SDE-2M"

    @property
    def evaluations(self) -> int:
        more = {} if isinstance(self.grid, Knots) else {"2S": self.steps, "3M": 1}
        return self.steps + more.get(self.variant, 0)

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        knots = points(path, times)
        if self.variant == "1S":
            return [first_order(p, q) for p, q in pairwise(knots)]
        if self.variant == "2S":
            ways = _triples(knots) if isinstance(self.grid, Knots) else [(p, _middle(path, p, q), q) for p, q in pairwise(knots)]
            return [step for way in ways for step in _single(*way)]
        if self.variant == "3M":
            visited = knots if isinstance(self.grid, Knots) else [knots[0], _middle(path, *knots[:2]), *knots[1:]]
            return [*_single(*visited[:3]), *(_third(*visited[k - 2 : k + 2]) for k in range(2, len(visited) - 1))]
        eta = 1.0 if self.stochastic else 0.0
        return [
            first_order(knots[0], knots[1], eta),
            *(_second(o, p, q, eta) for o, p, q in zip(knots, knots[1:], knots[2:], strict=False)),
        ]


def _second(o: Point, p: Point, q: Point, eta: float = 0.0) -> Step:
    """The step from p to q with data on a line through o and p."""
    step = first_order(p, q, eta)
    h, h_before = q.log_snr - p.log_snr, p.log_snr - o.log_snr
    if not (math.isfinite(h) and math.isfinite(h_before)):
        return step
    weight = (q.alpha - p.alpha * step.noise / p.sigma) * h / (2 * h_before)
    return step._replace(data=step.data + weight, past=((0.0, -weight),))


def _third(n: Point, o: Point, p: Point, q: Point) -> Step:
    """The step from p to q with data on a parabola through n, o and p."""
    h, r0, r1 = q.log_snr - p.log_snr, p.log_snr - o.log_snr, o.log_snr - n.log_snr
    if not (math.isfinite(h) and math.isfinite(r0) and math.isfinite(r1)):
        return _second(o, p, q)
    step, r0, r1 = first_order(p, q), r0 / h, r1 / h
    decay = math.expm1(-h)
    slope, bend = q.alpha * (decay / h + 1), -2 * q.alpha * ((decay + h) / h**2 - 0.5)
    recent = (slope * (1 + r0 / (r0 + r1)) + bend / (r0 + r1)) / r0  # the weight of data_p - data_o
    older = -(slope * r0 + bend) / (r0 + r1) / r1  # and of data_o - data_n
    return step._replace(data=step.data + recent, past=((0.0, older - recent), (0.0, -older)))


def _single(p: Point, middle: Point, q: Point | None = None) -> list[Step]:
    """The two steps from p to q; the second covers the full interval, with data on a line through p and the middle.

    x_q = kept x_p + (alpha_q - kept alpha_p) (data_p + (data_middle - data_p) / 2 r), where r is the middle's fraction of the
    interval in lambda. Without q it is the step of first order to the middle.
    """
    if q is None:
        return [first_order(p, middle)]
    if not (math.isfinite(p.log_snr) and math.isfinite(q.log_snr)):
        return [first_order(p, middle), first_order(middle, q)]
    kept, share = q.sigma / p.sigma, (middle.log_snr - p.log_snr) / (q.log_snr - p.log_snr)
    reach = q.alpha - kept * p.alpha
    recent = reach / (2 * share)
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
