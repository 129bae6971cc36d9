"""Shortcut models: one jump equals two jumps of half its length."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import real, whole
from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.objectives.objective import AverageVelocity, Evaluating, FlowMapping, Losses, check_guided, squared, uniform_times
from pushforward.registry import export


@export("objectives.Shortcut")
@dataclass(frozen=True)
class Shortcut(AverageVelocity):
    """Learn the average velocity over steps of length 1, 1/2, ..., 1/smallest by consistency of a step with its two halves.

        u(x, t, t - d) = (u(x, t, t - d/2) + u(x_m, t - d/2, t - d)) / 2,    x_m = x - d/2 u(x, t, t - d/2)

    The steps of length 1/smallest, in the other rows, learn the velocity. Targets are those of the averaged weights where the Trainer keeps
    them, without gradient.

    Args:
        smallest: number of the smallest steps from noise to data, a power of 2.
        bootstrap: share of rows that learn a longer step from two shorter ones.
        guidance: scale of the guidance in the targets made of two smallest steps, hence in all longer ones; 1 is none.
        bound: largest absolute value of the state after half a step and of the target, in the model's units, or None.

    Raises:
        UserError: an option is out of range.
        ConditionError: guidance of a model without dropped conditions.

    Source: Frans, Hafner, Levine and Abbeel, One step diffusion via shortcut models, 2024, arXiv 2410.12557, section 3.
    """

    uses_average: ClassVar[bool] = True
    smallest: int = 128
    bootstrap: float = 0.125
    guidance: float = 1.0
    bound: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if whole("smallest", self.smallest, 2) & (self.smallest - 1):
            raise UserError(f"smallest is {self.smallest}, but steps are halved, so it is a power of 2; 128 is usual.")
        if not 0 <= self.bootstrap <= 1:
            raise UserError(f"bootstrap is {self.bootstrap}, but it is a share of rows from 0 to 1; 0.125 is usual.")
        real("guidance", self.guidance, 0, "1 is no guidance")
        if self.bound is not None and not self.bound > 0:
            raise UserError(f"bound is {self.bound}, but a bound is positive; None is no bound.")

    def steps(self, x: Tensor, longer: Tensor, generator: _random.Generators) -> tuple[Tensor, Tensor]:
        """Return times t and step lengths d (n,), 1/smallest where `longer` (n,) is false: t is a multiple of d."""
        level, place = (uniform_times(len(x), generator, x) for _ in range(2))
        d = torch.where(longer, 0.5 ** torch.floor(level * math.log2(self.smallest)), 1 / self.smallest)
        return d * (1 + torch.floor(place / d)), d

    def check_model(self, model: FlowMapping) -> None:
        check_guided(self.guidance, model)

    def losses(self, model: FlowMapping, x: Tensor, noise: Tensor, cond: Any, generator: _random.Generators) -> Losses:
        u = uniform_times(len(x), generator, x)
        longer = u < self.bootstrap
        t, d = self.steps(x, longer, generator)
        if cond is not None and model.training and model.drop_cond:
            cond = model.dropped(cond, ~longer & (u < self.bootstrap + (1 - self.bootstrap) * model.drop_cond))
        z = model.path.mix(x, noise, t)
        target = model.target(x, noise, z, t, cond).to(t.dtype)
        if self.bootstrap:
            rows = longer.nonzero().flatten()
            if not len(rows):  # processes that share a model's weights call its network equally often: one row, which is not used
                rows = rows.new_zeros(1)
            given = None if cond is None else cond[rows]
            learned = target.index_copy(0, rows, self.two_halves(model, z[rows], t[rows], d[rows], given).to(target.dtype))
            target = torch.where(per_row(longer, target).bool(), learned, target)
        plain = squared(self.average(model.net, z, t, t - d, cond) - target) / max(1, x[:1].numel())
        return Losses(t, plain, plain)

    def two_halves(self, model: FlowMapping, x: Tensor, t: Tensor, d: Tensor, cond: Any) -> Tensor:
        """Return the mean velocity (n, *shape) of two steps of length d / 2."""
        net, half = model.averaged_net, d / 2
        with Evaluating(net):
            first = self.half(net, model, x, t, half, cond)
            middle = self._bounded(x - per_row(half, x) * first.to(x.dtype))
            second = self.half(net, model, middle, t - half, half, cond)
        return self._bounded((first + second) / 2)

    def half(self, net: Any, model: FlowMapping, x: Tensor, t: Tensor, half: Tensor, cond: Any) -> Tensor:
        """Return the velocity of a step of length `half`, with guidance where that is the smallest."""
        own = self.average(net, x, t, t - half, cond)
        if self.guidance == 1 or cond is None:
            return own
        guided = torch.lerp(self.average(net, x, t, t - half, None), own, self.guidance)
        return torch.where(per_row(half * self.smallest < 1.5, own).bool(), guided, own)

    def _bounded(self, x: Tensor) -> Tensor:
        return x if self.bound is None else x.clamp(-self.bound, self.bound)

    def velocity(self, model: FlowMapping, x: Tensor, t: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
        return self.average(model.net, x, t, t - 1 / self.smallest, cond)

    def check_jump(self, t: float, r: float, interval: tuple[float, float]) -> None:
        d = t - r
        steps = 1 / d if d else 0.0
        if not (abs(steps - round(steps)) < 1e-6 * steps and not round(steps) & (round(steps) - 1) and round(steps) <= self.smallest):
            raise UserError(
                f"a jump from t = {t:g} to {r:g} is asked for, but this shortcut model learns jumps of 1, 1/2, ..., 1/{self.smallest}; use "
                f"Jumps(steps) with a power of 2 up to {self.smallest}."
            )
