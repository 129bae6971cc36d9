"""DDPM: learn to remove noise, step by step.

Paper: Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020, arXiv 2006.11239.
What it adds: destroy data by a thousand small steps of noise and learn each step's reversal, a Gaussian whose mean follows from the
expected noise. Its variational bound reduces to a regression, |noise - net(x_t, t)|², which without the bound's weights gives better
images (their eq. 14). Sampling draws each step of the reversal. Here the thousand steps are knots of a path in continuous time, so that the
same network is an ODE with a likelihood, and any sampler can be used (`ddim`, `DPMSolverPP`, `UniPC`).
Later papers are arguments: `path=Discrete("cosine")` and `learn_variance=True` (2102.09672), `prediction="v"` (2202.00512),
`weighting=MinSNR()` (2303.09556).
"""

import torch

from pushforward.families.path_model import PathModel
from pushforward.models.path_options import DiffusionOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.nn.with_variance import WithVariance
from pushforward.paths import VariancePreserving
from pushforward.paths.discrete import Discrete
from pushforward.registry import export
from pushforward.samplers.ddpm import DDPM


def _example() -> tuple:
    path = VariancePreserving(0.1, 4.0)  # gentle: the laws ask for nine digits, of which a network at random leaves few at alpha = 0.006
    return ddpm(MLP.Config((16, 16)), (2,), path=path, prediction="velocity", classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.ddpm", example=_example)
@preset(path=Discrete(), prediction="noise", sampler=DDPM(100))
def ddpm(shared: DiffusionOptions, *, learn_variance: bool = False) -> PathModel:
    """Regress the noise of a variance preserving path and sample its reversal.

    Args:
        prediction: what the network predicts; "v" is progressive distillation's alpha noise - sigma data, on a variance preserving path.
        weighting: a weight of the loss: MinSNR(), or NoiseLoss() for the noise's loss under another prediction; None is 1.
        learn_variance: whether the network also predicts how much noise each step of the reversal draws, so that fewer steps are enough; a
            network of your own must then return twice the channels (see `nn.WithVariance`).
        sampler: how samples are made by default; DDPM(1000) is the paper's on Discrete().

    Returns:
        A PathModel; its likelihood, encode and decode are the ODE's, by Dopri5 unless a sampler is given.

    Example:
        >>> model = ddpm(shape=(2,))
        >>> model.loss(torch.randn(8, 2)).shape
        torch.Size([])
    """
    net = WithVariance(shared.network(outputs=2)) if learn_variance else shared.network()
    return PathModel(net, shared.event_shape, **shared.family_options)
