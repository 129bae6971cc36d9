"""Diffusion's ODE without a stochastic equation: the heat equation, solved by moving points.

Source: Su, a derivation of diffusion by ODEs, kexue.fm 9280 (in Chinese), 2022.
What it says: points that move by dx/dt = v change log|det| by div v dt, so their density obeys dp/dt = -div(p v). Choose v = -grad log p:
then dp/dt = laplacian p, the heat equation, whose solution is known: the data smoothed by a Gaussian of variance 2 s after heat time s.
Noise that large forgets the data, so that following the points back from N(0, 2 T) makes samples. All that must be learned is the score of
smoothed data, (E[data | x] - x) / (2 s), a regression. No Brownian motion, reversal of time or variational bound is needed.
Ours: the network is preconditioned and trained at log-normal noise levels as in `edm`, as heat's inputs reach ten times the data's scale.
"""

from collections.abc import Sequence

import torch

from pushforward.families.path_model import PathModel
from pushforward.functional.levels import Levels
from pushforward.models.preset import Net, Preprocess, built, preset, units
from pushforward.nn.mlp import MLP
from pushforward.nn.preconditioned import Preconditioned
from pushforward.paths import Heat
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.times import NormalLogSNR
from pushforward.weightings import Unit


def _example() -> tuple:
    return heat_ode(MLP.Config((16, 16)), (2,), duration=0.5, classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.heat_ode", example=_example)
@preset
def heat_ode(
    net: Net = None,
    shape: Sequence[int] = (2,),
    *,
    duration: float = 50.0,
    noise_mean: float = -1.2,
    noise_std: float = 1.2,
    data_std: float = 1.0,
    drop_cond: float = 0.0,
    preprocess: Preprocess = "none",
    sampler: Sampler = Dopri5(),
    classes: int | None = None,
    levels: Levels = None,
) -> PathModel:
    """Learn the data's smoothing and undo it by the ODE of the heat equation.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images; it is called with scaled inputs.
        shape: shape of one event.
        duration: heat time T, after which the noise has variance 2 T, in units of the (preprocessed) data.
        noise_mean: mean of ln sigma in training.
        noise_std: standard deviation of ln sigma in training.
        data_std: standard deviation of the (preprocessed) data: 1 where it is standardised, 0.5 is the paper's for images in [-1, 1].
        drop_cond: share of labels dropped in training, for guidance.
        preprocess: "standardise" fits mean and deviation to the training data; "none" leaves its units.
        sampler: how samples, encodings and likelihoods are solved by default.
        classes: number of class labels, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A PathModel with data prediction along Heat(duration).

    Example:
        >>> model = heat_ode(shape=(2,))
        >>> model.log_prob(torch.randn(3, 2)).shape
        torch.Size([3])
    """
    path = Heat(duration)
    return PathModel(
        Preconditioned(built(net, shape, classes), path, data_std),
        shape,
        path,
        "data",
        NormalLogSNR(path, -noise_mean, noise_std),
        drop_cond=drop_cond,
        weighting=Unit(data_std),
        preprocess=units(preprocess, shape),
        sampler=sampler,
        classes=classes,
        levels=levels,
    )
