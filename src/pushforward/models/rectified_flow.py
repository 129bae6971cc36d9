"""Rectified flow: from noise to data on nearly straight lines.

Paper: Liu, Gong and Liu, Flow straight and fast, 2022, arXiv 2209.03003.
What it says: connect each data point with a noise point by a straight line and let the velocity noise - data be regressed. Where lines
cross, the flow that is learned takes the mean and bends, yet it has the same marginals and costs no more transport than the pairs did
(their theorem 3.5): the flow rectifies the pairing. Its own pairs (noise, sample) can therefore be trained on again, which makes the
lines straighter still. The linear path, velocity prediction and independent first pairs are what makes the name; Stable Diffusion 3
trains this with logit-normal times.
"""

from collections.abc import Sequence

import torch

from pushforward.families.path_model import PathModel
from pushforward.functional.levels import Levels
from pushforward.models.flow_matching import flow_matching
from pushforward.models.preset import Net, Preprocess, preset
from pushforward.nn.mlp import MLP
from pushforward.pairings import Independent, Pairing
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.times import Times, Uniform


def _example() -> tuple:
    return rectified_flow(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.rectified_flow", example=_example)
@preset
def rectified_flow(
    net: Net = None,
    shape: Sequence[int] = (2,),
    *,
    times: Times = Uniform(),
    pairing: Pairing = Independent(),
    source: str | None = None,
    bridge: float = 0.0,
    drop_cond: float = 0.0,
    preprocess: Preprocess = "none",
    sampler: Sampler = Dopri5(),
    classes: int | None = None,
    levels: Levels = None,
) -> PathModel:
    """Regress the velocity noise - data along x_t = (1 - t) data + t noise.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images.
        shape: shape of one event.
        times: which t to train on; LogitNormal() is Stable Diffusion 3's.
        pairing: which noise meets which data within a batch.
        source: name of a data set (`pushforward list data`) that takes the noise's place, in the model's units; None is Gaussian noise.
        bridge: noise added on the way between the two, a stochastic interpolant (see `families.PathModel`).
        drop_cond: share of labels dropped in training, for guidance.
        preprocess: "standardise" fits mean and deviation to the training data, "logit" spreads quantised data over the line, "none" leaves
            its units.
        sampler: how samples, encodings and likelihoods are solved by default.
        classes: number of class labels, or None.
        levels: number of values of quantised data, for a table one entry a column; None for continuous data.

    Returns:
        A PathModel on the linear path with velocity prediction.

    Example:
        >>> model = rectified_flow(shape=(2,))
        >>> model.sample(3).shape
        torch.Size([3, 2])
    """
    return flow_matching(
        net,
        shape,
        times=times,
        pairing=pairing,
        source=source,
        bridge=bridge,
        drop_cond=drop_cond,
        preprocess=preprocess,
        sampler=sampler,
        classes=classes,
        levels=levels,
    )
