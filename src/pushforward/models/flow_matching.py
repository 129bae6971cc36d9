"""Flow matching: learn the velocity of a Gaussian path by regression on conditional velocities.

Paper: Lipman, Chen, Ben-Hamu, Nickel and Le, Flow matching for generative modeling, 2022, arXiv 2210.02747.
What it adds to continuous normalizing flows: training solves no ODE. The velocity that carries a whole distribution is the conditional
expectation of simple velocities, alpha' data + sigma' noise, so that plain regression finds it (theorem 2); the flow, its samples and
its exact likelihood are then those of the ODE. With the linear path (their optimal-transport path at sigma_min = 0) this is rectified
flow's first round.
"""

import torch

from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import Kind
from pushforward.models.path_options import MatchingOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.paths import Linear, Path
from pushforward.registry import export


def _example() -> tuple:
    return flow_matching(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.flow_matching", example=_example)
@preset
def flow_matching(shared: MatchingOptions, *, path: Path = Linear(), prediction: Kind = "velocity") -> PathModel:
    """Regress the velocity alpha' data + sigma' noise of any Gaussian path.

    Args:
        path: the schedule alpha, sigma.
        prediction: what the network predicts.

    Returns:
        A PathModel.

    Example:
        >>> model = flow_matching(shape=(2,))
        >>> model.loss(torch.randn(8, 2)).shape
        torch.Size([])
    """
    return PathModel(shared.network(), shared.event_shape, path, prediction, **shared.family_options)
