"""DDPM: learn to take noise away, step by step.

Paper: Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020, arXiv 2006.11239.
What it says: destroy data by a thousand small steps of noise and learn each step's reversal, a Gaussian whose mean follows from the
expected noise. Of its variational bound only a regression remains, |noise - net(x_t, t)|², and that without the bound's weights gives the
better pictures (their eq. 14). Sampling draws each step of the reversal. Here the thousand steps are knots of a path that runs on between
them, so that the same network is an ODE with a likelihood, and any sampler makes its pictures (`ddim`, `DPMSolverPP`, `UniPC`).
Later papers are arguments: `path=Discrete("cosine")` and `learn_variance=True` (2102.09672), `prediction="velocity"` (2202.00512),
`weighting=MinSNR()` (2303.09556).
"""

from collections.abc import Sequence

import torch

from pushforward.discrete import Discrete
from pushforward.families.path_model import PathModel
from pushforward.functional.levels import Levels
from pushforward.functional.prediction import Kind
from pushforward.models.preset import Net, Preprocess, built, preset, units
from pushforward.nn.mlp import MLP
from pushforward.nn.with_variance import WithVariance
from pushforward.paths import Path, VariancePreserving
from pushforward.registry import export
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.sampler import Sampler
from pushforward.times import Times, Uniform
from pushforward.weightings import MinSNR, NoiseLoss, Unit


def _example() -> tuple:
    path = VariancePreserving(0.1, 4.0)  # gentle: the laws ask for nine digits, of which a network at random leaves few at alpha = 0.006
    return ddpm(MLP.Config((16, 16)), (2,), path=path, prediction="velocity", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.ddpm", example=_example)
@preset
def ddpm(
    net: Net = None,
    shape: Sequence[int] = (2,),
    *,
    path: Path = Discrete(),
    prediction: Kind = "noise",
    times: Times = Uniform(),
    weighting: NoiseLoss | MinSNR | Unit | None = None,
    learn_variance: bool = False,
    drop_cond: float = 0.0,
    preprocess: Preprocess = "none",
    sampler: Sampler = DDPM(100),
    classes: int | None = None,
    levels: Levels = None,
) -> PathModel:
    """Regress the noise of a variance preserving path and sample its reversal.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images.
        shape: shape of one event.
        path: the schedule: Discrete("linear" | "cosine" | "sigmoid", steps), VariancePreserving() in continuous time, or any other.
        prediction: what the network predicts; "velocity" on a variance preserving path is progressive distillation's v but for its speed.
        times: which t to train on.
        weighting: a weight of the loss: MinSNR(), or NoiseLoss() for the noise's loss under another prediction; None is 1.
        learn_variance: whether the network also says how much noise each step of the reversal draws, which takes fewer steps; a network of
            your own must then say twice the channels (see `nn.WithVariance`).
        drop_cond: share of labels dropped in training, for guidance.
        preprocess: "standardise" fits mean and deviation to the training data, as noise of deviation 1 wants it; "none" leaves its units.
        sampler: how samples are made by default; DDPM(1000) is the paper's on Discrete().
        classes: number of class labels, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A PathModel; its likelihood, encode and decode are the ODE's, by Dopri5 unless a sampler is given.

    Example:
        >>> model = ddpm(shape=(2,))
        >>> model.loss(torch.randn(8, 2)).shape
        torch.Size([])
    """
    return PathModel(
        WithVariance(built(net, shape, classes, outputs=2)) if learn_variance else built(net, shape, classes),
        shape,
        path,
        prediction,
        times,
        drop_cond=drop_cond,
        weighting=weighting,
        preprocess=units(preprocess, shape),
        sampler=sampler,
        classes=classes,
        levels=levels,
    )
