"""OT-CFM: flow matching whose noise and data are paired by optimal transport within each batch.

Paper: Tong, Fatras, Malkin, Huguet, Zhang, Rector-Brooks, Wolf and Bengio, Improving and generalizing flow-based generative models with
minibatch optimal transport, 2023, arXiv 2302.00482.
What it adds to flow matching: lines between partners that are near each other seldom cross, so that the velocity is nearly that of each
line, training has less variance, and trajectories are straight and short; as the batch grows they become those of dynamic optimal
transport. Conditions take part in the pairing (Cheng and Schwing, 2025, arXiv 2503.10636): plain transport would give each class
noise of its own, and conditional samples, which start from all of the noise, would suffer. Either end may be data (`source`).
"""

from collections.abc import Sequence

import torch

from pushforward.families.path_model import PathModel
from pushforward.functional.levels import Levels
from pushforward.models.flow_matching import flow_matching
from pushforward.models.preset import Net, Preprocess, preset
from pushforward.nn.mlp import MLP
from pushforward.pairings import MinibatchOT, Pairing
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.times import Times, Uniform


def _example() -> tuple:
    return ot_flow_matching(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.ot_flow_matching", example=_example)
@preset
def ot_flow_matching(
    net: Net = None,
    shape: Sequence[int] = (2,),
    *,
    times: Times = Uniform(),
    pairing: Pairing = MinibatchOT(),
    source: str | None = None,
    bridge: float = 0.0,
    drop_cond: float = 0.0,
    preprocess: Preprocess = "none",
    sampler: Sampler = Dopri5(),
    classes: int | None = None,
    levels: Levels = None,
) -> PathModel:
    """Regress the velocity noise - data along straight lines between partners of minibatch optimal transport.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images.
        shape: shape of one event.
        times: which t to train on.
        pairing: how partners are found; MinibatchOT("ignore") forgets conditions.
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
        >>> model = ot_flow_matching(shape=(2,), source="moons")
        >>> model.loss(torch.randn(8, 2)).shape
        torch.Size([])
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
