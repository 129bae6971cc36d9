# --8<-- [start:new]
import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import pushforward as pf
from pushforward.registry import api_export
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


# --8<-- [start:order]
mixture, path = pf.data.three_gaussians(torch.float64), pf.paths.Linear()
torch.set_default_dtype(torch.float64)
model = pf.families.PathModel(mixture.net(path), (2,), path)
z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
truth = model.decode(z, sampler=pf.samplers.Dopri5(1e-10, 1e-10))
for kind in (Ralston, AdamsBashforth):
    errors = [(model.decode(z, sampler=kind(steps)) - truth).abs().mean() for steps in (200, 400)]
    print(f"{kind.__name__}: order {math.log2(errors[0] / errors[1]):.2f}")
    assert math.log2(errors[0] / errors[1]) > 1.9

x = mixture.sample(100, generator=torch.Generator().manual_seed(1))
nats = model.log_prob(x, sampler=pf.samplers.Dopri5(1e-10, 1e-10))
for kind in (Ralston, AdamsBashforth):
    print(f"{kind.__name__}: log_prob is off by {(model.log_prob(x, sampler=kind(400)) - nats).abs().max():.0e} nats at most")
print(f"read off its tableau: order {Ralston.tableau.order}")
# --8<-- [end:order]
