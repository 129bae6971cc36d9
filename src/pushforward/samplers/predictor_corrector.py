"""Predictor-corrector: after each step of the reverse SDE, some steps of Langevin dynamics at the same time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export
from pushforward.samplers.grids import Grid, Uniform
from pushforward.samplers.linear import LinearSampler, Point, Step, first_order, points


def _example(steps: int = 50) -> "PredictorCorrector":
    return PredictorCorrector(steps)


@export("samplers.PredictorCorrector", example=_example)
@dataclass(frozen=True)
class PredictorCorrector(LinearSampler):
    """Step to the next time by DDPM, then apply Langevin steps, which bring x closer to the marginal of that time.

        x <- x + epsilon score(x, s) + sqrt(2 epsilon) xi,    epsilon = 2 (snr sigma_s)²

    The paper computes epsilon for each batch, as 2 (snr |xi| / |score|)². Ours assumes |score| = |xi| / sigma, which holds on average, so
    that samples are independent of each other.

    Args:
        steps: number of predictor steps.
        corrections: Langevin steps after each predictor step except the last.
        snr: length of a Langevin step in units of the noise; 0.16 is the paper's.
        grid: where the steps lie; equal steps in t by default.

    Raises:
        UserError: corrections or snr is negative.

    Source: Song et al., 2011.13456, algorithm 1, with ancestral sampling (appendix F) as predictor and algorithms 4 and 5 as corrector.
    """

    steps: int = 200
    corrections: int = 1
    snr: float = 0.16
    grid: Grid = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrections < 0 or not self.snr >= 0:
            raise UserError(f"corrections is {self.corrections} and snr {self.snr}, but both must be at least 0; try 1 and 0.16.")

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def evaluations(self) -> int:
        return self.steps + (self.steps - 1) * self.corrections

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        steps: list[Step] = []
        for p, q in pairwise(points(path, times)):
            if steps:
                steps += self._corrected(p)
            steps.append(first_order(p, q, eta=1.0))
        return steps

    def finish(self, path: Path, t: float) -> list[Step]:
        (p,) = points(path, [t])
        return [*(self._corrected(p) if self.steps > 1 else ()), *super().finish(path, t)]

    def _corrected(self, p: Point) -> list[Step]:
        """Return the Langevin steps at one time."""
        return [Step(p.t, noise=-2 * self.snr**2 * p.sigma, state=1.0, random=2 * self.snr * p.sigma)] * self.corrections
