"""Rectified flow: from noise to data on nearly straight lines.

Paper: Liu, Gong and Liu, Flow straight and fast, 2022, arXiv 2209.03003.
What it adds: connect each data point with a noise point by a straight line and regress the velocity noise - data. Where lines cross, the
learned flow takes the mean and bends, yet it has the same marginals and its transport costs no more than that of the pairs (their theorem
3.5): the flow rectifies the pairing. Its own pairs (noise, sample) can therefore be trained on again, which makes the lines straighter
still. The linear path, velocity prediction and independent first pairs define the model; Stable Diffusion 3 trains it with logit-normal
times.
"""

import torch

from pushforward.families.path_model import PathModel
from pushforward.models.path_options import MatchingOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.paths import Linear
from pushforward.registry import export


def _example() -> tuple:
    return rectified_flow(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.rectified_flow", example=_example)
@preset
def rectified_flow(shared: MatchingOptions) -> PathModel:
    """Regress the velocity noise - data along x_t = (1 - t) data + t noise.

    Args:
        times: which t to train on; LogitNormal() is Stable Diffusion 3's.

    Returns:
        A PathModel on the linear path with velocity prediction.

    Example:
        >>> model = rectified_flow(shape=(2,))
        >>> model.sample(3).shape
        torch.Size([3, 2])
    """
    return PathModel(shared.network(), shared.event_shape, Linear(), "velocity", **shared.family_options)
