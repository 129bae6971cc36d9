"""DDPM's ancestral sampler."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export, unknown
from pushforward.samplers.brownian import NOISES, Noise
from pushforward.samplers.clipping import Clipping
from pushforward.samplers.grids import Grid, Uniform
from pushforward.samplers.linear import LinearSampler, Point, Step, first_order, points

Variance = Literal["auto", "small", "large"]


def _example(steps: int = 50) -> "DDPM":
    return DDPM(steps)


@export("samplers.DDPM", example=_example)
@dataclass(frozen=True)
class DDPM(LinearSampler):
    """Draw x_s from the forward process's posterior given x_t and the expected data: DDIM with eta = 1.

        x_s ~ N(alpha_s data + (alpha_t sigma_s² / (alpha_s sigma_t)) noise, kappa²)
        kappa² = sigma_s² (1 - alpha_t² sigma_s² / (alpha_s² sigma_t²))

    In the limit of small steps it is the reverse SDE, whose marginals are those of the ODE. It needs more steps than the ODE, and is more
    robust to errors of the network.

    Args:
        steps: number of steps, one evaluation each; on the paper's path of 1,000 betas, `Discrete()`, DDPM(1000) is its algorithm 2.
        noise: "fresh" at each step, or "brownian": a function of seed and time, so that more steps of a seed follow the same path.
        grid: where the steps lie; equal steps in t by default.
        variance: "small" is kappa², exact for data that are one point; "large" is kappa² sigma_t² / sigma_s², exact for data N(0, I);
            "auto" is the variance that the network predicts (`nn.WithVariance`), between the two, and small if it predicts none.
        clip: how the data prediction is clipped, or None; a sampler that clips solves no ODE.

    Raises:
        UserError: steps is below 1, or noise or variance is unknown.

    Source: Ho, Jain and Abbeel, 2006.11239, algorithm 2 and section 3.2 (small and large); Nichol and Dhariwal, 2102.09672, equation 15.
    """

    steps: int = 250
    noise: Noise = "fresh"
    grid: Grid = field(default_factory=Uniform)
    variance: Variance = "auto"
    clip: Clipping | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise not in NOISES:
            raise UserError(unknown("noise", str(self.noise), NOISES))
        if self.variance not in get_args(Variance):
            raise UserError(unknown("variance", str(self.variance), get_args(Variance)))

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        return [self._step(p, q) for p, q in pairwise(points(path, times))]

    def _step(self, p: Point, q: Point) -> Step:
        step = first_order(p, q, eta=1.0)
        if self.variance == "small" or not step.random:
            return step
        spread = math.log(p.sigma / q.sigma)
        return step._replace(spread=spread) if self.variance == "auto" else step._replace(random=step.random * math.exp(spread))
