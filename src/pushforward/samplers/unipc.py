"""UniPC: a predictor and a corrector of any order that share one evaluation per step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import ClassVar, Literal, get_args

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export, unknown
from pushforward.samplers.clipping import Clipping
from pushforward.samplers.grids import Grid, LogSNR
from pushforward.samplers.linear import LinearSampler, Point, Step, first_order, points
from pushforward.samplers.orders import FEW, orders

SolverType = Literal["bh1", "bh2"]


def _example(steps: int = 20) -> "UniPC":
    return UniPC(steps)


@export("samplers.UniPC", example=_example, order=3)
@dataclass(frozen=True)
class UniPC(LinearSampler):
    """Predict x at s, evaluate there, correct x by the result and continue from the corrected x with the same evaluation.

        x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) data_t + alpha_s B(h) sum_i rho_i (data_i - data_t) / r_i
        r_i = (lambda_i - lambda_t) / h

    where the predictor's i are data predictions before t, and the corrector's also include s. The corrector raises the order by one: order
    p converges at order p + 1, up to 3, which is the limit for a start from one value. Corrected states are not stored: the corrected x is
    the predicted x plus a sum of data predictions, so that a step is still a weighted sum of x and the last data predictions.

    Args:
        steps: number of steps, one evaluation each.
        order: order of the predictor, 1, 2 or 3; the paper uses 2 with guidance and 3 without.
        grid: where the steps lie; equal steps in lambda by default.
        lower_order_final: whether the last step is of order 1 and the one before of order 2 at most, with fewer than 15 steps; on the way
            to the data of a discrete path, whose last step is of order 1 in any case, with any number of steps.
        solver_type: "bh1" is B(h) = h, "bh2" is B(h) = 1 - exp(-h), which differ at orders 1 and 2 alone, where rho = 1/2 is not exact.
        clip: how the data prediction is clipped, or None; a sampler that clips solves no ODE.

    Raises:
        UserError: an order other than 1, 2 and 3, or an unknown solver_type.

    Source: Zhao et al., UniPC, 2302.04867, algorithms 5 to 8 (data prediction), at order 2 their rho = 1/2; lower_order_final is
    diffusers'.
    """

    steps: int = 20
    order: int = 2
    grid: Grid = field(default_factory=LogSNR)
    lower_order_final: bool = True
    solver_type: SolverType = "bh2"
    clip: Clipping | None = None

    spare: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2, 3):
            raise UserError(f"order is {self.order}, but UniPC has 1, 2 and 3; try 2.")
        if self.solver_type not in get_args(SolverType):
            raise UserError(unknown("solver_type", str(self.solver_type), get_args(SolverType)))

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        return self._through(points(path, times), 0, self.lower_order_final and self.steps < FEW)

    def plan_to_data(self, path: Path, times: Sequence[float]) -> list[Step]:
        return [*self._through(points(path, times), 1, self.lower_order_final), *self.finish(path, times[-1])]

    def _through(self, knots: list[Point], after: int, lower: bool) -> list[Step]:
        """Return the steps from knot to knot, which `after` more follow."""
        steps, correction = [], [0.0]  # the corrector's addition to x: weights of the data predicted here, one before, ...
        for k, order in enumerate(orders(self.order, len(knots) - 1, after, lower)):
            p, q = knots[k : k + 2]
            predicted, corrected = _weights(knots[k + 1 - order : k + 1], q, self.solver_type)
            step, kept = first_order(p, q), q.sigma / p.sigma if p.sigma else 0.0
            here, *past = _sum(predicted, [kept * weight for weight in correction])
            steps.append(step._replace(data=step.data + here, past=tuple((0.0, weight) for weight in past)))
            new, *old = corrected
            correction = [new, *_sum(old, [-weight for weight in predicted])]
        return steps


def _weights(known: list[Point], q: Point, solver_type: SolverType) -> tuple[list[float], list[float]]:
    """Return the additions of predictor and corrector to the step of first order from the last of `known` to q.

    The predictor's are weights of the data of `known`, the latest first; the corrector's start with the weight of q's data.
    """
    p = known[-1]
    h = q.log_snr - p.log_snr
    if not math.isfinite(h):
        return [0.0], [0.0, 0.0]
    nodes = [(one.log_snr - p.log_snr) / h for one in reversed(known[:-1]) if math.isfinite(one.log_snr)]
    decay = math.expm1(-h)
    b = -h if solver_type == "bh1" else decay
    moments, factorial, phi = [], 1.0, -decay / h - 1
    for i in range(1, len(nodes) + 2):  # of r^(i - 1) under the weight exp(lambda), over B(h)
        moments.append(phi * factorial / b)
        factorial *= i + 1
        phi = -phi / h - 1 / factorial
    predictor = [0.5] if len(nodes) == 1 else _vandermonde(nodes, moments[:-1])
    corrector = _vandermonde([*nodes, 1.0], moments) if nodes else [0.5]
    scale = -q.alpha * b
    of_past = [scale * rho / r for rho, r in zip(predictor, nodes, strict=True)]
    of_new, of_past_too = scale * corrector[-1], [scale * rho / r for rho, r in zip(corrector, nodes, strict=False)]
    return [-sum(of_past), *of_past], [of_new, -of_new - sum(of_past_too), *of_past_too]


def _vandermonde(nodes: list[float], moments: list[float]) -> list[float]:
    """Return the weights w with sum_j w_j nodes_j^i = moments_i (Björck and Pereyra 1970)."""
    w, n = list(moments), len(nodes)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, n - 1):
            w[i] -= w[i + 1]
    return w


def _sum(a: list[float], b: list[float]) -> list[float]:
    return [one + two for one, two in zip_longest(a, b, fillvalue=0.0)]
