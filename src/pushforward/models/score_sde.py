"""Score SDE: diffusion in continuous time, as a stochastic equation whose reversal needs the score alone.

Paper: Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, Score-based generative modeling through SDEs, 2020, arXiv 2011.13456.
What it adds: any noising dx = f dt + g dw is undone by dx = (f - g² score) dt + g dw backwards, and so is its marginals' change by an ODE,
dx = (f - g² score / 2) dt, which gives exact likelihoods. Three noisings are compared: variance exploding, preserving and sub-preserving.
Sampling alternates a step of the reverse equation (predictor) with Langevin steps at one time (corrector). The network predicts noise =
-sigma score, under which the score's loss weighted by sigma² is the plain one.
"""

import torch

from pushforward.families.path_model import PathModel
from pushforward.models.path_options import DiffusionOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.paths import VariancePreserving
from pushforward.registry import export
from pushforward.samplers.predictor_corrector import PredictorCorrector


def _example() -> tuple:
    path = VariancePreserving(0.1, 4.0)  # gentle: the laws ask for nine digits, of which a network at random leaves few at alpha = 0.006
    return score_sde(MLP.Config((16, 16)), (2,), path=path, prediction="velocity", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.score_sde", example=_example)
@preset(path=VariancePreserving(), prediction="noise", sampler=PredictorCorrector(100))
def score_sde(shared: DiffusionOptions) -> PathModel:
    """Match the score of a noising in continuous time; sample by predictor and corrector.

    Args:
        path: the noising: VariancePreserving(), SubVariancePreserving(), VarianceExploding() or any other path.
        prediction: what the network predicts; "score" itself has a loss without bound where there is little noise.
        sampler: how samples are made by default.

    Returns:
        A PathModel; its likelihood, encode and decode are the ODE's, by Dopri5 unless a sampler is given.

    Example:
        >>> model = score_sde(shape=(2,))
        >>> model.log_prob(torch.randn(8, 2)).shape
        torch.Size([8])
    """
    return PathModel(shared.network(), shared.event_shape, **shared.family_options)
