"""OT-CFM: flow matching whose noise and data are paired by optimal transport within each batch.

Paper: Tong, Fatras, Malkin, Huguet, Zhang, Rector-Brooks, Wolf and Bengio, Improving and generalizing flow-based generative models with
minibatch optimal transport, 2023, arXiv 2302.00482.
What it adds to flow matching: lines between partners that are near each other seldom cross, so that the velocity is nearly that of each
line, training has less variance, and trajectories are straight and short; as the batch grows they become those of dynamic optimal
transport. Conditions take part in the pairing (Cheng and Schwing, 2025, arXiv 2503.10636): plain transport would give each class
noise of its own, and conditional samples, which start from all of the noise, would suffer. Either end may be data (`source`).
"""

import torch

from pushforward.families.path_model import PathModel
from pushforward.models.path_options import MatchingOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.pairings import MinibatchOT
from pushforward.paths import Linear
from pushforward.registry import export


def _example() -> tuple:
    return ot_flow_matching(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.ot_flow_matching", example=_example)
@preset(pairing=MinibatchOT())
def ot_flow_matching(shared: MatchingOptions) -> PathModel:
    """Regress the velocity noise - data along straight lines between partners of minibatch optimal transport.

    Args:
        pairing: how partners are found; MinibatchOT("ignore") forgets conditions.

    Returns:
        A PathModel on the linear path with velocity prediction.

    Example:
        >>> model = ot_flow_matching(shape=(2,), source="moons")
        >>> model.loss(torch.randn(8, 2)).shape
        torch.Size([])
    """
    return PathModel(shared.network(), shared.event_shape, Linear(), "velocity", **shared.family_options)
