"""DDIM: the deterministic sampler hidden in diffusion.

Paper: Song, Meng and Ermon, Denoising diffusion implicit models, 2020, arXiv 2010.02502.
What it adds to DDPM: training only ever looks at x_t given the data, never at two times together, so many processes share one network.
Among them is one that draws no noise: take the expected data and noise, and mix them anew for the next time. It is a map from noise to data
that can be followed back, needs 20 to 100 steps where DDPM needs 1,000, and for small steps is an ODE. So this is DDPM but for its sampler.
"""

from collections.abc import Sequence

import torch

from pushforward.discrete import Discrete
from pushforward.families.path_model import PathModel
from pushforward.functional.levels import Levels
from pushforward.functional.prediction import Kind
from pushforward.models.ddpm import ddpm
from pushforward.models.preset import Net, Preprocess, preset
from pushforward.nn.mlp import MLP
from pushforward.paths import Path, VariancePreserving
from pushforward.registry import export
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.sampler import Sampler
from pushforward.times import Times, Uniform
from pushforward.weightings import MinSNR, NoiseLoss, Unit


def _example() -> tuple:
    path = VariancePreserving(0.1, 4.0)  # gentle: the laws ask for nine digits, of which a network at random leaves few at alpha = 0.006
    return ddim(MLP.Config((16, 16)), (2,), path=path, prediction="velocity", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.ddim", example=_example)
@preset
def ddim(
    net: Net = None,
    shape: Sequence[int] = (2,),
    *,
    path: Path = Discrete(),
    prediction: Kind = "noise",
    times: Times = Uniform(),
    weighting: NoiseLoss | MinSNR | Unit | None = None,
    drop_cond: float = 0.0,
    preprocess: Preprocess = "none",
    sampler: Sampler = DDIM(50),
    classes: int | None = None,
    levels: Levels = None,
) -> PathModel:
    """Regress the noise as DDPM does, and sample without drawing any.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images.
        shape: shape of one event.
        path: the schedule: Discrete("linear" | "cosine" | "sigmoid", steps), VariancePreserving() in continuous time, or any other.
        prediction: what the network predicts.
        times: which t to train on.
        weighting: a weight of the loss, as in `ddpm`.
        drop_cond: share of labels dropped in training, for guidance.
        preprocess: "standardise" fits mean and deviation to the training data, as noise of deviation 1 wants it; "none" leaves its units.
        sampler: how samples are made, and encodings and likelihoods solved, by default; give those Dopri5() for more accuracy.
        classes: number of class labels, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A PathModel.

    Example:
        >>> model = ddim(shape=(2,))
        >>> model.sample(3).shape
        torch.Size([3, 2])
    """
    return ddpm(
        net,
        shape,
        path=path,
        prediction=prediction,
        times=times,
        weighting=weighting,
        drop_cond=drop_cond,
        preprocess=preprocess,
        sampler=sampler,
        classes=classes,
        levels=levels,
    )
