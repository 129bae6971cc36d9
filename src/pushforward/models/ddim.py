"""DDIM: the deterministic sampler hidden in diffusion.

Paper: Song, Meng and Ermon, Denoising diffusion implicit models, 2020, arXiv 2010.02502.
What it adds to DDPM: training depends on x_t given the data only, never on two times together, so many processes share one network. One of
them draws no noise: take the expected data and noise, and combine them for the next time. It is an invertible map from noise to data, needs
20 to 100 steps where DDPM needs 1,000, and for small steps is an ODE. So this is DDPM with another sampler.
"""

import torch

from pushforward.families.path_model import PathModel
from pushforward.models.path_options import DiffusionOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.paths import VariancePreserving
from pushforward.paths.discrete import Discrete
from pushforward.registry import export
from pushforward.samplers.ddim import DDIM


def _example() -> tuple:
    path = VariancePreserving(0.1, 4.0)  # gentle: the laws ask for nine digits, of which a network at random leaves few at alpha = 0.006
    return ddim(MLP.Config((16, 16)), (2,), path=path, prediction="velocity", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.ddim", example=_example)
@preset(path=Discrete(), prediction="noise", sampler=DDIM(50))
def ddim(shared: DiffusionOptions) -> PathModel:
    """Regress the noise as DDPM does, and sample without drawing any.

    Args:
        sampler: how samples are made, and encodings and likelihoods solved, by default; give those Dopri5() for more accuracy.

    Returns:
        A PathModel.

    Example:
        >>> model = ddim(shape=(2,))
        >>> model.sample(3).shape
        torch.Size([3, 2])
    """
    return PathModel(shared.network(), shared.event_shape, **shared.family_options)
