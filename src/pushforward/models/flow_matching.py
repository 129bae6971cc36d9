"""Flow matching: learn the velocity of a Gaussian path by regression on conditional velocities.

Paper: Lipman, Chen, Ben-Hamu, Nickel and Le, Flow matching for generative modeling, 2022, arXiv 2210.02747.
What it adds to continuous normalizing flows: training solves no ODE. The velocity that carries a whole distribution is the conditional
expectation of simple velocities, alpha' data + sigma' noise, so that plain regression finds it (theorem 2); the flow, its samples and
its exact likelihood are then those of the ODE. With the linear path (their optimal-transport path at sigma_min = 0) this is rectified
flow's first round.
"""

from collections.abc import Sequence

import torch

from pushforward.bases import Samples
from pushforward.families.path_model import PathModel
from pushforward.functional.levels import Levels
from pushforward.functional.prediction import Kind
from pushforward.models.preset import Net, Preprocess, built, preset, units
from pushforward.nn.mlp import MLP
from pushforward.pairings import Independent, Pairing
from pushforward.paths import Linear, Path
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.times import Times, Uniform


def _example() -> tuple:
    return flow_matching(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.flow_matching", example=_example)
@preset
def flow_matching(
    net: Net = None,
    shape: Sequence[int] = (2,),
    *,
    path: Path = Linear(),
    prediction: Kind = "velocity",
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
    """Regress the velocity alpha' data + sigma' noise of any Gaussian path.

    Args:
        net: a network, its configuration, or None for an MLP over vectors and a U-Net over images.
        shape: shape of one event.
        path: the schedule alpha, sigma.
        prediction: what the network predicts.
        times: which t to train on.
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
        A PathModel.

    Example:
        >>> model = flow_matching(shape=(2,))
        >>> model.loss(torch.randn(8, 2)).shape
        torch.Size([])
    """
    return PathModel(
        built(net, shape, classes),
        shape,
        path,
        prediction,
        times,
        pairing,
        None if source is None else Samples.of(source, shape),
        bridge=bridge,
        drop_cond=drop_cond,
        preprocess=units(preprocess, shape, levels),
        sampler=sampler,
        classes=classes,
        levels=levels,
    )
