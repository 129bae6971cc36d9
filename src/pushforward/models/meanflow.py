"""MeanFlow: one evaluation from noise to data, learned without a teacher.

Paper: Geng, Deng, Bai, Kolter and He, Mean flows for one-step generative modeling, 2025, arXiv 2505.13447.
What it adds to flow matching: the network predicts the average velocity u(x_t, t, r) over an interval, with which one jump crosses it:
x_r = x_t - (t - r) u. The definition (t - r) u = int_r^t v ds, differentiated by t, states what u must be without any integral:
u = v - (t - r) du/dt, where the total derivative du/dt = v du/dx + du/dt is one product by forward mode (`torch.func.jvp`). At r = t this
is flow matching, so that three quarters of a batch are trained as that, at no further cost.
"""

import torch

from pushforward.families.flow_map import FlowMap
from pushforward.models.flow_map_options import FlowMapOptions
from pushforward.models.preset import preset
from pushforward.nn.mlp import MLP
from pushforward.objectives.mean_flow import MeanFlow
from pushforward.registry import export
from pushforward.times import LogitNormal, Times


def _example() -> tuple:
    return meanflow(MLP.Config((16, 16)), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("models.meanflow", example=_example)
@preset
def meanflow(
    shared: FlowMapOptions,
    *,
    times: Times = LogitNormal(-0.4, 1.0),
    instantaneous: float = 0.75,
    guidance: float = 1.0,
    kappa: float = 0.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    power: float | None = None,
    offset: float = 0.01,
) -> FlowMap:
    """Learn the average velocity of the linear path from its own total derivative.

    Args:
        times: distribution of two independent times, of which t is the later and r the earlier.
        instantaneous: share of rows with r = t, where the objective is flow matching.
        guidance: scale of classifier-free guidance that the map includes, at no cost when sampling; it needs drop_cond; 1 is none.
        kappa: share of the network's own conditional velocity in the guided target; it lowers the target's variance.
        guidance_interval: times (low, high) at which to guide.
        power: the loss of a row is divided by (itself + offset)^power, without gradient; 0 is the plain squared error. None is 1 for
            events of at least 16 numbers, and 0 for fewer, whose errors differ too much.
        offset: the smallest such divisor; the loss is a sum over the event, so scale it with the event's size.

    Returns:
        A FlowMap; its value of the loss is the plain squared error, its gradient that of the weighted one.

    Example:
        >>> model = meanflow(shape=(2,))
        >>> model.sample(3).shape, model.sampler.evaluations
        (torch.Size([3, 2]), 1)
    """
    return shared.flow_map(MeanFlow(times, instantaneous, shared.power(power), offset, guidance, kappa, guidance_interval))
