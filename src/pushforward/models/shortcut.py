"""Shortcut models: any number of steps, because one step equals two of half its length.

Paper: Frans, Hafner, Levine and Abbeel, One step diffusion via shortcut models, 2024, arXiv 2410.12557.
What it adds to flow matching: the network also reads the length d of the step that it is asked for. The smallest steps learn the
velocity as in flow matching; an eighth of the batch learns that one step of length d equals two steps of d/2, which the network itself
predicts. So long steps follow from short ones, 1/64 from 1/128 and in the end 1 from 1/2, in a single training.
"""

import torch

from pushforward.families.flow_map import FlowMap
from pushforward.models.flow_map_options import FlowMapOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.objectives.shortcut import Shortcut
from pushforward.registry import export


def _example() -> tuple:
    return shortcut(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.shortcut", example=_example)
@preset
def shortcut(
    shared: FlowMapOptions, *, smallest: int = 128, bootstrap: float = 0.125, guidance: float = 1.0, bound: float | None = None
) -> FlowMap:
    """Learn steps of length 1, 1/2, ..., 1/smallest, each from two of half its length.

    The paper's optimiser is AdamW with a weight decay of 0.1, the Trainer's `weight_decay=0.1`.

    Args:
        smallest: number of the smallest steps from noise to data, a power of 2.
        bootstrap: share of rows that learn a longer step from two shorter ones.
        guidance: scale of the guidance in the targets made of two smallest steps, hence in all longer ones; it needs drop_cond; 1 is none.
        bound: largest absolute value of intermediate states and targets, in the model's units, such as 4 for data of unit scale; None is
            no bound.

    Returns:
        A FlowMap, which samples by `Jumps(steps)` with a power of 2.

    Example:
        >>> model = shortcut(shape=(2,))
        >>> model.sample(3, sampler=pf.samplers.Jumps(4)).shape
        torch.Size([3, 2])
    """
    return shared.flow_map(Shortcut(smallest, bootstrap, guidance, bound))
