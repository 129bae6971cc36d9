"""Euler-Maruyama: the reverse SDE with any amount of noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

from pushforward._checks import is_real, shown
from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export, unknown
from pushforward.samplers.brownian import NOISES, Noise
from pushforward.samplers.grids import Grid, Uniform, clock
from pushforward.samplers.linear import LinearSampler, Step


def _example(steps: int = 100) -> "EulerMaruyama":
    return EulerMaruyama(steps)


@export("samplers.EulerMaruyama", example=_example)
@dataclass(frozen=True)
class EulerMaruyama(LinearSampler):
    """Solve dx = (velocity - g² score / 2) dt + g dw backward in time; it has the marginals of the ODE for any g_t >= 0.

        x_s = x - h (velocity - g² score / 2) + g sqrt(h) xi,    h = t - s

    g = 0 is the ODE by Euler's method. The path's own rate, g² = 2 sigma sigma' - 2 sigma² alpha' / alpha, is that of the forward process
    which adds noise independently of the data (beta on a variance preserving path); where alpha vanishes it is infinite.

    Args:
        steps: number of steps, one evaluation each.
        g: a factor on the path's own rate, or a function of t (k,) in float64 that returns g_t (k,) in units of the (preprocessed) data
            over the square root of time. If a step is too long for it, g² is limited to sigma² / h, which preserves the marginals too.
        noise: "fresh" at each step, or "brownian": a function of seed and time, so that more steps of a seed follow the same path.
        grid: where the steps lie; equal steps in t by default.

    Raises:
        UserError: g is negative, or noise is unknown.

    Source: Song et al., 2011.13456, eq. 6 and appendix D.1; any g: Karras et al. (EDM), 2206.00364, appendix B.5.
    """

    steps: int = 200
    g: float | Callable[[Tensor], Tensor] = 1.0
    noise: Noise = "fresh"
    grid: Grid = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.g) and not (is_real(self.g) and self.g >= 0):
            raise UserError(f"g is {shown(self.g)}, but it must be at least 0, or a function of t; 0 is the ODE, 1 the path's own rate.")
        if self.noise not in NOISES:
            raise UserError(unknown("noise", str(self.noise), NOISES))

    @property
    def stochastic(self) -> bool:
        return callable(self.g) or self.g > 0

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        t = clock(path, times)
        alpha, sigma, alpha_dot, sigma_dot = (one(t) for one in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot))
        g = self.g(t) if callable(self.g) else self.g * (2 * sigma * (sigma_dot - alpha_dot * sigma / alpha)).sqrt()
        if callable(self.g) and not bool((g[:-1] >= 0).all()):
            raise UserError(f"g(t) is {float(g[:-1].min()):g} somewhere, but it must be at least 0 at every step.")
        rows = zip(pairwise(times), sigma.tolist(), alpha_dot.tolist(), sigma_dot.tolist(), g.square().tolist(), strict=False)
        return [_step(*row) for row in rows]


def _step(ends: tuple[float, float], sigma: float, alpha_dot: float, sigma_dot: float, rate: float) -> Step:
    t, s = ends
    h = s - t
    rate = min(rate, sigma**2 / abs(h))
    of_score = 0.5 * h * rate / sigma if rate else 0.0  # score = -noise / sigma
    return Step(t, h * alpha_dot, h * sigma_dot + of_score, state=1.0, random=math.sqrt(rate * abs(h)))
