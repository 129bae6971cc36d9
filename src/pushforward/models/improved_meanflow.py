"""Improved MeanFlow: a stable one-step model whose guidance scale is chosen when it samples.

Paper: Geng, Lu, Wu, Shechtman, Kolter and He, Improved mean flows, 2025, arXiv 2512.02012.
What it adds to MeanFlow: the identity is read the other way round. The average velocity u and its total derivative state a velocity
V = u + (t - r) du/dt, which regresses on that of data and noise, so that the target no longer contains the network; the derivative is taken
along the network's own velocity v, a second output that learns from the same target. The scale of classifier-free guidance and the times
at which it acts become inputs of the network: one model has every scale, in one evaluation.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from pushforward.families.flow_map import FlowMap
from pushforward.models.flow_map_options import FlowMapOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.objectives.improved_mean_flow import ImprovedMeanFlow
from pushforward.registry import export
from pushforward.times import LogitNormal, Times


@dataclass(frozen=True)
class GuidedOptions(FlowMapOptions):
    """Options of a flow map whose network reads a guidance scale.

    Args:
        drop_cond: share of conditions dropped in training, for guidance; 0 is a network that reads no guidance scale, and None is 0.1 for
            a model with conditions whose teacher, if there is one, dropped some too.
    """

    drop_cond: float | None = field(default=None, kw_only=True)  # type: ignore[assignment]

    @classmethod
    def follow(cls, arguments: dict[str, Any]) -> None:
        super().follow(arguments)
        if arguments.get("drop_cond") is None:
            conditional = any(arguments.get(name) is not None for name in ("classes", "cond_features", "cond_image"))
            teacher = arguments.get("teacher")
            arguments["drop_cond"] = 0.1 if conditional and (teacher is None or teacher.drop_cond) else 0.0


def _example() -> tuple:
    return improved_meanflow(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.improved_meanflow", example=_example)
@preset
def improved_meanflow(
    shared: GuidedOptions,
    *,
    times: Times = LogitNormal(-0.4, 1.0),
    instantaneous: float = 0.5,
    guidance: float = 8.0,
    power: float | None = None,
    offset: float = 0.01,
) -> FlowMap:
    """Regress the velocity that the average velocity implies, with the guidance scale as an input.

    Args:
        times: distribution of two independent times, of which t is the later and r the earlier.
        instantaneous: share of rows with r = t, where the objective is flow matching.
        guidance: largest guidance scale that the network learns; samples take one, `sample(guidance=3.0)`, at no cost.
        power: each loss of a row is divided by (itself + offset)^power, without gradient; 0 is the plain squared error. None is 1 for
            events of at least 16 numbers, and 0 for fewer, whose errors differ too much.
        offset: the smallest such divisor; the losses are sums over the event, so scale it with the event's size.

    Returns:
        A FlowMap; a network of your own must return twice the channels, the average velocity and then the velocity.

    Example:
        >>> model = improved_meanflow(shape=(2,), classes=3)
        >>> model.sample(3, torch.tensor([0, 1, 2]), guidance=2.0).shape
        torch.Size([3, 2])
    """
    return shared.flow_map(ImprovedMeanFlow(times, instantaneous, shared.power(power), offset, guidance if shared.drop_cond else 1.0))
