"""MeanFlow: the average velocity from its own total derivative."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import real
from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.extrapolation import checked_interval, within
from pushforward.objectives.derivative import Draws, apart, total_derivative
from pushforward.objectives.objective import (
    AverageVelocity,
    Evaluating,
    FlowMapping,
    Losses,
    adaptive,
    check_guided,
    squared,
    uniform_times,
)
from pushforward.registry import export
from pushforward.times import LogitNormal, Times


@dataclass(frozen=True)
class IntervalObjective(AverageVelocity):
    """Objectives trained on random intervals [r, t].

    Args:
        times: distribution of two independent times, of which t is the later and r the earlier.
        instantaneous: share of rows with r = t, where the objective is flow matching.
        power: the loss of a row is divided by (itself + offset)^power, without gradient; 0 is the plain squared error.
        offset: the smallest such divisor; the loss is a sum over the event.
    """

    uses_jvp: ClassVar[bool] = True
    times: Times = field(default_factory=lambda: LogitNormal(-0.4, 1.0))
    instantaneous: float = 0.75
    power: float = 1.0
    offset: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.instantaneous <= 1:
            raise UserError(f"instantaneous is {self.instantaneous}, but it is a share of rows from 0 to 1; 0.75 is usual.")
        real("power", self.power, 0)
        if not self.offset > 0:
            raise UserError(f"offset is {self.offset}, but it must be positive; 0.01 is usual.")

    def intervals(self, x: Tensor, generator: _random.Generators) -> tuple[Tensor, Tensor, Tensor]:
        """Return t and r (n,), and uniform numbers (n,) that are below `instantaneous` where r = t."""
        n = len(x)
        one, other, u = (uniform_times(n, generator, x) for _ in range(3))
        one, other = self.times.quantile(one), self.times.quantile(other)
        t, r = torch.maximum(one, other), torch.minimum(one, other)
        return t, torch.where(u < self.instantaneous, t, r), u


def dropped(model: FlowMapping, cond: Any, u: Tensor) -> tuple[Any, Tensor]:
    """Return the condition with a share dropped in training, and which rows (n,) keep it.

    The rows of least u are dropped, which are those with r = t: without a condition the network learns the plain velocity.
    """
    if cond is None or not model.training or not model.drop_cond:
        return cond, torch.full_like(u, cond is not None, dtype=torch.bool)
    mask = u < model.drop_cond
    return model.dropped(cond, mask), ~mask


@export("objectives.MeanFlow")
@dataclass(frozen=True)
class MeanFlow(IntervalObjective):
    """Learn the average velocity by the identity that its definition implies.

        u = v - (t - r) (v du/dz + du/dt),    loss = |u - stopgrad(v_g - (t - r) (v_g du/dz + du/dt))|² / stopgrad(loss + offset)^power

    With guidance the velocity v_g is that of classifier-free guidance, so that samples cost one evaluation:

        v_g = omega v + (1 - omega - kappa) u(z, t, t) + kappa u(z, t, t, cond),    omega = (1 - kappa) guidance

    Args:
        times: distribution of two independent times, of which t is the later and r the earlier.
        instantaneous: share of rows with r = t, where the objective is flow matching.
        power: the loss of a row is divided by (itself + offset)^power, without gradient; 0 is the plain squared error.
        offset: the smallest such divisor; the loss is a sum over the event.
        guidance: scale of the guidance that the map includes; 1 is none.
        kappa: share of the network's own conditional velocity in the target, from 0 to below 1; it lowers the target's variance.
        guidance_interval: times (low, high) at which to guide.

    Raises:
        UserError: an option is out of range.
        ConditionError: guidance of a model without dropped conditions.

    Source: Geng et al., Mean flows for one-step generative modeling, 2025, arXiv 2505.13447, eqs. 6 to 11 and 19.
    """

    guidance: float = 1.0
    kappa: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.kappa < 1:
            raise UserError(f"kappa is {self.kappa}, but it is a share from 0 to below 1.")
        real("guidance", self.guidance, 0, "1 is no guidance")
        checked_interval(self.guidance_interval)

    def check_model(self, model: FlowMapping) -> None:
        check_guided(self.guidance, model)

    def losses(self, model: FlowMapping, x: Tensor, noise: Tensor, cond: Any, generator: _random.Generators) -> Losses:
        t, r, u = self.intervals(x, generator)
        cond, kept = dropped(model, cond, u)
        z = model.path.mix(x, noise, t)
        v = self.steered(model, model.target(x, noise, z, t, cond), z, t, cond, kept)

        def average(z: Tensor, t: Tensor, r: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
            return self.average(model.net, z, t, r, cond)

        def losses(rows: Any) -> tuple[Tensor, Tensor]:
            of, at, end, along, given = z[rows], t[rows], r[rows], v[rows], None if cond is None else cond[rows]
            draws = Draws(z.device)
            predicted = average(of, at, end, given, None)
            derivative = total_derivative(average, of, at, end, along, given, None, draws)
            total = squared(predicted - self.target(along, at, end, derivative))
            return adaptive(total, self.power, self.offset), total / max(1, x[:1].numel())

        return Losses(t, *apart(model.net, r < t, losses))

    def target(self, v: Tensor, t: Tensor, r: Tensor, derivative: Tensor) -> Tensor:
        """Return what u regresses on: v - (t - r) du/dt, all (n, *shape)."""
        return v - per_row(t - r, derivative) * derivative

    def steered(self, model: FlowMapping, v: Tensor, z: Tensor, t: Tensor, cond: Any, kept: Tensor) -> Tensor:
        """Return the velocity v with guidance in the rows that keep their condition."""
        if cond is None or (self.guidance == 1 and not self.kappa):
            return v
        guided = (1 - self.kappa) * self.guidance * v
        with Evaluating(model.net):
            if self.guidance != 1:
                guided = guided + (1 - self.kappa) * (1 - self.guidance) * self.average(model.net, z, t, t, None)
            if self.kappa:
                guided = guided + self.kappa * self.average(model.net, z, t, t, cond)
        inside = within(t, self.guidance_interval)
        kept = kept if inside is None else kept & inside
        return torch.where(kept.view(-1, *(1,) * (z.ndim - 1)), guided, v)
