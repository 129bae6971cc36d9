"""Consistency models in continuous time (sCM): the derivative along a trajectory takes the place of a neighbour."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import real
from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.objectives.consistency import ConsistencyFunction, level_time
from pushforward.objectives.derivative import Draws, scaled_derivative
from pushforward.objectives.objective import FlowMapping, Losses, squared, uniform_times
from pushforward.registry import export

QUARTER = math.pi / 2  # the angle of t = 1


@export("objectives.ContinuousConsistency")
@dataclass(frozen=True)
class ContinuousConsistency(ConsistencyFunction):
    """Move the network's prediction against the derivative of f along the trajectory, on the path x = cos(a) data + sin(a) noise.

        f = cos(a) x - sin(a) F,    g = cos(a) df/da = -cos²(a) (F - dx/da) - w (cos(a) sin(a) x + dF)
        loss = |F - stopgrad(F + g')|² / D,    g' = g / (|g| / sqrt(D) + offset)
        dF the derivative of F along (dx/da, 1), times cos(a) sin(a)

    The angle is a = pi t / 2, F predicts dx/da = cos(a) noise - sin(a) data ("v"), and w rises from 0 to 1 (tangent warm-up). dx/da is
    that of the pair of data and noise, or the teacher's.

    Args:
        mean: mean of ln tan(a) in training.
        std: deviation of ln tan(a) in training.
        warmup: share of the training in which w rises from 0 to 1.
        offset: the constant in the normalisation of g.

    Raises:
        UserError: an option is out of range.

    Source: Lu and Song, Simplifying, stabilizing and scaling continuous-time consistency models, 2024, arXiv 2410.11081, section 4.
    Ours: without their learned weight of the loss by time.
    """

    uses_jvp: ClassVar[bool] = True
    mean: float = -1.0
    std: float = 1.4
    warmup: float = 0.1
    offset: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup <= 1:
            raise UserError(f"warmup is {self.warmup}, but it is a share of the training from 0 to 1.")
        if not (self.std > 0 and self.offset > 0):
            raise UserError(f"std is {self.std} and offset {self.offset}, but both must be positive.")
        real("mean", self.mean)

    def losses(self, model: FlowMapping, x: Tensor, noise: Tensor, cond: Any, generator: _random.Generators) -> Losses:
        u = uniform_times(len(x), generator, x)
        level = torch.exp(self.mean + self.std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)))
        low, high = model.interval
        t = level_time(model.path, level, (low + 1e-4, high - 1e-4))
        z = model.path.mix(x, noise, t)
        slope = model.target(x, noise, z, t, cond) / QUARTER
        draws = Draws(z.device)
        predicted = model.net(z, t, cond)
        cos, sin = (per_row(one(QUARTER * t), z) for one in (torch.cos, torch.sin))
        along = scaled_derivative(model.net, z, t, cos * sin * slope, (cos * sin).flatten() / QUARTER, cond, draws)
        now = predicted.detach().to(along.dtype)
        warm = 1.0 if not model.training or not self.warmup else min(1.0, model.progress / self.warmup)
        g = -cos.square() * (now - slope) - warm * (cos * sin * z + along)
        size = max(1, x[:1].numel())
        scale = squared(g).div(size).sqrt() + self.offset
        total = squared(predicted - (now + g / per_row(scale, g))) / size
        return Losses(t, total, squared(g) / size)
