# --8<-- [start:new]
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

import pushforward as pf
from pushforward.registry import api_export
from pushforward.samplers.grids import Grid, Uniform
from pushforward.samplers.linear import LinearSampler, Step, first_order, points
from pushforward.samplers.sampler import FixedStepSampler, Sampler

export = functools.partial(api_export, package="my_samplers")


@export("samplers.Ralston", example=lambda steps=20: Ralston(steps), order=2)
class Ralston(FixedStepSampler):
    """Ralston's method: second order, with the smallest error constant of its kind."""

    tableau = pf.ode.Tableau(nodes=(0, 2 / 3), stages=((2 / 3,),), weights=(1 / 4, 3 / 4))


# --8<-- [end:new]


# --8<-- [start:other]
@export("samplers.AdamsBashforth", example=lambda steps=20: AdamsBashforth(steps), order=2)
@dataclass(frozen=True)
class AdamsBashforth(Sampler):
    """The two-step method: second order for one evaluation a step, by the slope of the step before.

    Args:
        steps: number of steps.
    """

    steps: int = 20
    solves_ode: ClassVar[bool] = True  # it only uses the velocity, so it can also compute likelihoods

    def __call__(self, denoiser: Any, x: Tensor, t_start: float, t_end: float, generator: Any = None) -> Tensor:
        h, before = (t_end - t_start) / self.steps, None
        for k in range(self.steps):
            slope = denoiser(x, torch.full((len(x),), t_start + k * h)).velocity
            x = x + h * (slope if before is None else 1.5 * slope - 0.5 * before)
            before = slope
        return x


# --8<-- [end:other]


# --8<-- [start:diffusion]
@export("samplers.HalfNoise", example=lambda steps=20: HalfNoise(steps))
@dataclass(frozen=True)
class HalfNoise(LinearSampler):
    """DDIM that redraws half of each step's noise.

    Args:
        steps: number of steps.
        grid: where they lie.
    """

    steps: int = 50
    grid: Grid = field(default_factory=Uniform)

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, path: pf.paths.Path, times: Sequence[float]) -> list[Step]:
        return [first_order(p, q, eta=0.5) for p, q in pairwise(points(path, times))]


# --8<-- [end:diffusion]


# --8<-- [start:order]
for kind in (Ralston, AdamsBashforth):
    pf.testing.check_sampler(kind, order=2)
    print(f"{kind.__name__}: all laws hold at order 2")
print(f"the order that follows from the tableau: {Ralston.tableau.order}")

mixture = pf.data.three_gaussians()
model = pf.families.PathModel(mixture.net(pf.paths.VariancePreserving()), (2,), pf.paths.VariancePreserving())
samples = model.sample(4000, sampler=HalfNoise(200), generator=torch.Generator().manual_seed(0))
truth = mixture.sample(4000, generator=torch.Generator().manual_seed(1))
print(f"mean and deviation of HalfNoise's samples are off by {(samples.mean(0) - truth.mean(0)).abs().max():.2f} and "
      f"{(samples.std(0) - truth.std(0)).abs().max():.2f}")  # fmt: skip
# --8<-- [end:order]
