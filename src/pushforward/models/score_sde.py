"""Score SDE: diffusion in continuous time, as a stochastic equation whose reversal needs the score alone.

Paper: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, Score-based generative modeling through SDEs, 2020, arXiv 2011.13456.
What it says: any noising dx = f dt + g dw is undone by dx = (f - g² score) dt + g dw backwards, and so is its marginals' change by an ODE,
dx = (f - g² score / 2) dt, which gives exact likelihoods. Three noisings are compared: variance exploding, preserving and sub-preserving.
Sampling alternates a step of the reverse equation (predictor) with Langevin steps at one time (corrector). The network predicts noise =
-sigma score, under which the score's loss weighted by sigma² is the plain one.
"""

from collections.abc import Sequence

import torch

from pushforward.families.path_model import PathModel
from pushforward.functional.levels import Levels
from pushforward.functional.prediction import Kind
from pushforward.models.preset import Net, Preprocess, built, preset, units
from pushforward.nn.mlp import MLP
from pushforward.paths import Path, VariancePreserving
from pushforward.registry import export
from pushforward.samplers.predictor_corrector import PredictorCorrector
from pushforward.samplers.sampler import Sampler
from pushforward.times import Times, Uniform
from pushforward.weightings import MinSNR, NoiseLoss, Unit


def _example() -> tuple:
    path = VariancePreserving(0.1, 4.0)  # gentle: the laws ask for nine digits, of which a network at random leaves few at alpha = 0.006
    return score_sde(MLP.Config((16, 16)), (2,), path=path, prediction="velocity", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.score_sde", example=_example)
@preset
def score_sde(
    net: Net = None,
    shape: Sequence[int] = (2,),
    *,
    path: Path = VariancePreserving(),
    prediction: Kind = "noise",
    times: Times = Uniform(),
    weighting: NoiseLoss | MinSNR | Unit | None = None,
    drop_cond: float = 0.0,
    preprocess: Preprocess = "none",
    sampler: Sampler = PredictorCorrector(100),
    classes: int | None = None,
    levels: Levels = None,
) -> PathModel:
    """Match the score of a noising in continuous time; sample by predictor and corrector.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images.
        shape: shape of one event.
        path: the noising: VariancePreserving(), SubVariancePreserving(), VarianceExploding() or any other path.
        prediction: what the network predicts; "score" itself has a loss without bound where there is little noise.
        times: which t to train on.
        weighting: a weight of the loss, as in `ddpm`.
        drop_cond: share of labels dropped in training, for guidance.
        preprocess: "standardise" fits mean and deviation to the training data, as noise of deviation 1 wants it; "none" leaves its units.
        sampler: how samples are made by default.
        classes: number of class labels, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A PathModel; its likelihood, encode and decode are the ODE's, by Dopri5 unless a sampler is given.

    Example:
        >>> model = score_sde(shape=(2,))
        >>> model.log_prob(torch.randn(8, 2)).shape
        torch.Size([8])
    """
    return PathModel(
        built(net, shape, classes),
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
