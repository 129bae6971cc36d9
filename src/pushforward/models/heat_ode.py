"""Diffusion's ODE without a stochastic equation: the heat equation, solved by moving points.

Source: Su, a derivation of diffusion by ODEs, kexue.fm 9280 (in Chinese), 2022.
What it adds: points that move by dx/dt = v change log|det| by div v dt, so their density obeys dp/dt = -div(p v). Choose v = -grad log p:
then dp/dt = laplacian p, the heat equation, whose solution is known: the data smoothed by a Gaussian of variance 2 s after heat time s.
Noise that large forgets the data, so that following the points back from N(0, 2 T) makes samples. All that must be learned is the score of
smoothed data, (E[data | x] - x) / (2 s), a regression. No Brownian motion, reversal of time or variational bound is needed.
Ours: the network is preconditioned and trained at log-normal noise levels as in `edm`, as heat's inputs reach ten times the data's scale.
"""

import torch

from pushforward.families.path_model import PathModel
from pushforward.models.edm import preconditioned
from pushforward.models.path_options import PreconditionedOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.paths import Heat
from pushforward.registry import export


def _example() -> tuple:
    return heat_ode(MLP.Config((16, 16)), (2,), duration=0.5, classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.heat_ode", example=_example)
@preset
def heat_ode(shared: PreconditionedOptions, *, duration: float = 50.0) -> PathModel:
    """Learn the data's smoothing and undo it by the ODE of the heat equation.

    Args:
        duration: heat time T, after which the noise has variance 2 T, in units of the (preprocessed) data.

    Returns:
        A PathModel with data prediction along Heat(duration).

    Example:
        >>> model = heat_ode(shape=(2,))
        >>> model.log_prob(torch.randn(3, 2)).shape
        torch.Size([3])
    """
    return preconditioned(shared, Heat(duration))
