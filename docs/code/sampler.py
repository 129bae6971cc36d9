# --8<-- [start:new]
import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import pushforward as pf
from pushforward.registry import api_export
from pushforward.samplers.sampler import Sampler

export = functools.partial(api_export, package="my_samplers")


@export("samplers.Ralston", example=lambda steps=20: Ralston(steps), order=2)
@dataclass(frozen=True)
class Ralston(Sampler):
    """Ralston's method: second order, with the smallest error bound among two-stage methods.

    Args:
        steps: number of steps (two evaluations each).
    """

    steps: int = 20
    solves_ode: ClassVar[bool] = True  # it only uses the velocity, so it can also compute likelihoods

    def __call__(self, denoiser: Any, x: Tensor, t_start: float, t_end: float, generator: Any = None) -> Tensor:
        h = (t_end - t_start) / self.steps
        for k in range(self.steps):
            t = torch.full((len(x),), t_start + k * h)
            first = denoiser(x, t).velocity
            second = denoiser(x + 2 / 3 * h * first, t + 2 / 3 * h).velocity
            x = x + h / 4 * (first + 3 * second)
        return x


# --8<-- [end:new]


# --8<-- [start:order]
mixture, path = pf.data.three_gaussians(torch.float64), pf.paths.Linear()
torch.set_default_dtype(torch.float64)
model = pf.families.PathModel(mixture.net(path), (2,), path)
z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
truth = model.decode(z, sampler=pf.samplers.Dopri5(1e-10, 1e-10))
errors = [(model.decode(z, sampler=Ralston(steps)) - truth).abs().mean() for steps in (200, 400)]
print(f"order {math.log2(errors[0] / errors[1]):.2f}")
# --8<-- [end:order]
assert math.log2(errors[0] / errors[1]) > 1.9
