"""DDIM: a deterministic sampler of diffusion models, and with eta from 0 to 1 everything between it and DDPM."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pushforward.errors import UserError
from pushforward.paths.path import Path
from pushforward.registry import export, unknown
from pushforward.samplers.brownian import NOISES, Noise
from pushforward.samplers.clipping import Clipping
from pushforward.samplers.grids import Grid, Uniform
from pushforward.samplers.linear import LinearSampler, Step, first_order, points


def _example(steps: int = 20) -> "DDIM":
    return DDIM(steps)


@export("samplers.DDIM", example=_example, order=1)
@dataclass(frozen=True)
class DDIM(LinearSampler):
    """Treat the expected data and noise as constant until s, and redraw a share of the noise.

        x_s = alpha_s data + sqrt(sigma_s² - kappa²) noise + kappa xi
        kappa² = eta² sigma_s² (1 - alpha_t² sigma_s² / (alpha_s² sigma_t²))

    With eta = 0 it is deterministic: Euler's method for the ODE in the variables x / alpha and sigma / alpha, in either direction of time,
    of first order. On the linear path it equals `Euler`. With eta = 1 it is DDPM.

    Args:
        steps: number of steps, one evaluation each.
        eta: share of the noise that is redrawn, from 0 (the ODE) to 1 (DDPM).
        noise: "fresh" at each step, or "brownian": a function of seed and time, so that more steps of a seed follow the same path.
        grid: where the steps lie; equal steps in t by default. On a discrete path, `Knots` uses those of diffusers.
        clip: how the data prediction is clipped, or None; a sampler that clips solves no ODE.

    Raises:
        UserError: eta is not between 0 and 1, or noise is unknown.

    Example:
        >>> DDIM(50).solves_ode, DDIM(50, eta=0.5).solves_ode
        (True, False)

    Source: Song, Meng and Ermon, 2010.02502, eq. 12 and 16.
    """

    steps: int = 50
    eta: float = 0.0
    noise: Noise = "fresh"
    grid: Grid = field(default_factory=Uniform)
    clip: Clipping | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is {self.eta}, but it is a share of the noise from 0 (the ODE) to 1 (DDPM).")
        if self.noise not in NOISES:
            raise UserError(unknown("noise", str(self.noise), NOISES))

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def plan(self, path: Path, times: Sequence[float]) -> list[Step]:
        return [first_order(p, q, self.eta) for p, q in pairwise(points(path, times))]
