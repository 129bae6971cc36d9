"""EDM's sampler: Heun's method in the noise level, with some noise added before each step (churn)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export
from pushforward.samplers.grids import Grid, Karras, clock
from pushforward.samplers.linear import LinearSampler, Point, Step, first_order, halves, points


def _example(steps: int = 20) -> "EDM":
    return EDM(steps)


@export("samplers.EDM", example=_example, order=2)
@dataclass(frozen=True)
class EDM(LinearSampler):
    """Solve dy/ds = noise(y, s) for y = x / alpha and s = sigma / alpha by Heun's method, optionally with fresh noise before each step.

        s^ = s (1 + min(churn / steps, sqrt(2) - 1)),    y^ = y + sqrt(s^² - s²) churn_noise xi,    then Heun from s^ to the next s

    Args:
        steps: number of steps, two evaluations each; on a discrete path the last one, to the data, has one.
        churn: total amount of noise added; 0 solves the ODE, 40 is the paper's for ImageNet.
        churn_min: least noise level s at which noise is added, in units of the (preprocessed) data.
        churn_max: highest noise level s at which noise is added.
        churn_noise: factor on the noise, slightly above 1, as networks remove slightly too much: 1.003 to 1.007.
        grid: where the steps lie; Karras' by default.

    Raises:
        UserError: churn is negative.

    Source: Karras et al. (EDM), 2206.00364, algorithms 1 and 2. Ours: the last step also has its second evaluation, as our paths end where
    the network is defined; noise is never raised above that of the start.
    """

    steps: int = 18
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0
    grid: Grid = field(default_factory=Karras)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.churn >= 0:
            raise UserError(f"churn is {self.churn}, but it must be at least 0; 0 solves the ODE, 40 is usual on images.")

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    @property
    def evaluations(self) -> int:
        return 2 * self.steps

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        knots = points(path, times)
        raised = self._raised(path, knots)
        steps: list[Step] = []
        for k, (p, q) in enumerate(pairwise(knots)):
            if raised[k] is not p:
                steps[-1] = _with_noise(steps[-1], p, raised[k], self.churn_noise)
            steps += _heun(path, raised[k], q)
        return steps

    def _raised(self, path: Path, knots: list[Point]) -> list[Point]:
        """Return where each step starts: at a later t than the end of the previous step, if noise is added."""
        share = min(self.churn / self.steps, math.sqrt(2) - 1)
        highest = knots[0].log_snr
        wanted = [max(highest, p.log_snr - math.log1p(share)) for p in knots]
        times = [p.t for p in knots]
        for k, p in enumerate(knots[1:-1], start=1):
            if share and wanted[k] < p.log_snr and self.churn_min <= math.exp(-p.log_snr) <= self.churn_max:
                times[k] = float(path.time(clock(path, wanted[k : k + 1])[0]))
        return [p if p.t == t else point for p, t, point in zip(knots, times, points(path, times), strict=True)]


def _heun(path: Path, p: Point, q: Point) -> list[Step]:
    """Euler's step and the trapezoidal rule: y + (s_q - s_p) (noise_p + noise_q) / 2, times alpha_q."""
    if p.alpha == 0:  # y is infinite
        return halves(path, p, q)
    reach = q.sigma - q.alpha * p.sigma / p.alpha
    return [first_order(p, q), Step(q.t, noise=reach / 2, state=0.5, past=((q.alpha / p.alpha / 2, 0.0),))]


def _with_noise(step: Step, p: Point, raised: Point, factor: float) -> Step:
    """Return the step that ends not at p but, with fresh noise, at `raised`.

    x^ = alpha^ / alpha x + factor sqrt(sigma^² - (alpha^ sigma / alpha)²) xi
    """
    scale = raised.alpha / p.alpha
    return step._replace(
        data=scale * step.data,
        noise=scale * step.noise,
        state=scale * step.state,
        past=tuple((scale * state, scale * data) for state, data in step.past),
        random=factor * math.sqrt(max(0.0, raised.sigma**2 - (scale * p.sigma) ** 2)),
    )
