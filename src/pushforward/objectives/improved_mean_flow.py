"""Improved MeanFlow: the average velocity as an ordinary regression on the velocity, with guidance as an input."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import real
from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.objectives.derivative import Draws, apart, total_derivative
from pushforward.objectives.mean_flow import IntervalObjective, dropped
from pushforward.objectives.objective import Evaluating, FlowMapping, Losses, adaptive, check_guided, heads, squared, uniform_times
from pushforward.registry import export

LATEST = 0.5  # intervals of guidance begin before this time, and end after it


@export("objectives.ImprovedMeanFlow")
@dataclass(frozen=True)
class ImprovedMeanFlow(IntervalObjective):
    """Learn the average velocity u through the velocity V that it implies, and the velocity v itself by a second output.

        V = u + (t - r) stopgrad(v du/dz + du/dt),    loss = |V - v_g|² + |v - v_g|², each divided by stopgrad(itself + offset)^power

    The target does not contain the network, except for guidance, whose scale omega and interval of times are inputs of the network:

        v_g = v_data + (1 - 1 / omega) (v(cond, omega) - v())    inside the interval

    The fixed point is omega v_data + (1 - omega) v(), classifier-free guidance.
    Its network is called as net(x, t, cond, r=r, guidance=guidance) with guidance (n, 3), and returns twice the channels: u, then v.

    Args:
        times: distribution of two independent times, of which t is the later and r the earlier.
        instantaneous: share of rows with r = t, where the objective is flow matching.
        power: each loss of a row is divided by (itself + offset)^power, without gradient; 0 is the plain squared error.
        offset: the smallest such divisor; the losses are sums over the event.
        guidance: largest scale of guidance, with density proportional to 1 / scale from 1 on; 1 is a network without guidance.

    Raises:
        UserError: an option is out of range.
        ConditionError: guidance of a model without dropped conditions.

    Source: Geng et al., Improved mean flows, 2025, arXiv 2512.02012.
    """

    instantaneous: float = 0.5
    guidance: float = 8.0

    outputs: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        real("guidance", self.guidance, 1, "1 is no guidance")

    @property
    def numbers(self) -> int:  # type: ignore[override]
        return 4 if self.reads_guidance else 1

    @property
    def reads_guidance(self) -> bool:  # type: ignore[override]
        return self.guidance > 1

    def both(self, net: Any, x: Tensor, t: Tensor, r: Tensor, cond: Any, guidance: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the average velocity and the velocity, both (n, *shape)."""
        return heads(net(x, t, cond, r=r) if guidance is None else net(x, t, cond, r=r, guidance=guidance), x)

    def average(self, net: Any, x: Tensor, t: Tensor, r: Tensor, cond: Any, guidance: Tensor | None = None) -> Tensor:
        return self.both(net, x, t, r, cond, guidance)[0]

    def check_guidance(self, scale: float, interval: tuple[float, float]) -> None:
        if not self.reads_guidance:
            return
        if not 1 <= scale <= self.guidance:
            raise UserError(
                f"guidance is {scale:g}, but this network has learned scales from 1 to {self.guidance:g}; give one of these, or train "
                "with a larger guidance."
            )
        low, high = interval
        if low > LATEST or high < LATEST:
            raise UserError(
                f"interval is {interval}, but this network has learned those that begin at {LATEST} or before and end there or after."
            )

    def velocity(self, model: FlowMapping, x: Tensor, t: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
        if guidance is not None:  # at r = t it has learned the interval from 0 to 1 alone, hence scale 1 outside a smaller one
            scale, low, high = guidance.unbind(1)
            scale = torch.where((t >= low) & (t <= high), scale, 1.0)
            guidance = torch.stack((scale, torch.zeros_like(low), torch.ones_like(high)), dim=1)
        return super().velocity(model, x, t, cond, guidance)

    def losses(self, model: FlowMapping, x: Tensor, noise: Tensor, cond: Any, generator: _random.Generators) -> Losses:
        t, r, u = self.intervals(x, generator)
        cond, kept = dropped(model, cond, u)
        z = model.path.mix(x, noise, t)
        guidance = self.drawn_guidance(model, x, t, r, kept, generator)
        target = self.guided(model, model.target(x, noise, z, t, cond), z, t, cond, kept, guidance)

        def again(z: Tensor, t: Tensor, r: Tensor, cond: Any, guidance: Tensor | None) -> Tensor:
            return self.average(model.net, z, t, r, cond, guidance)

        def losses(rows: Any) -> tuple[Tensor, Tensor]:
            of, at, end, aim = z[rows], t[rows], r[rows], target[rows]
            given, steered = (None if one is None else one[rows] for one in (cond, guidance))
            draws = Draws(z.device)
            average, velocity = self.both(model.net, of, at, end, given, steered)
            derivative = total_derivative(again, of, at, end, velocity.detach(), given, steered, draws)
            implied = squared(average + per_row(at - end, derivative) * derivative - aim)
            direct = squared(velocity - aim)
            weighted = adaptive(implied, self.power, self.offset) + adaptive(direct, self.power, self.offset)
            return weighted, implied / max(1, x[:1].numel())

        return Losses(t, *apart(model.net, r < t, losses))

    def drawn_guidance(
        self, model: FlowMapping, x: Tensor, t: Tensor, r: Tensor, kept: Tensor, generator: _random.Generators
    ) -> Tensor | None:
        """Return scales and intervals of guidance (n, 3), None if it reads none; 1 for rows without a condition, and in eval mode."""
        if not self.reads_guidance:
            return None
        kept = kept & model.training  # losses of validation are comparable only without guidance
        u, low, high = (uniform_times(len(x), generator, x) for _ in range(3))
        scale = torch.where(kept, torch.exp(math.log(self.guidance) * u), 1.0)
        low, high = LATEST * low, LATEST + (1 - LATEST) * high
        return torch.stack((scale, torch.where(r < t, low, 0.0), torch.where(r < t, high, 1.0)), dim=1)

    def guided(self, model: FlowMapping, v: Tensor, z: Tensor, t: Tensor, cond: Any, kept: Tensor, guidance: Tensor | None) -> Tensor:
        """Return the velocity v with guidance in the rows that keep their condition, at times inside their intervals."""
        if guidance is None or cond is None or not model.training:
            return v
        check_guided(self.guidance, model)
        scale, low, high = guidance.unbind(1)
        inside = kept & (t >= low) & (t <= high)
        # About two thirds of the rows are guided. Where counting them would synchronise, all are computed; one always is, as processes that
        # share a network call it together.
        count = int(inside.sum()) if z.device.type == "cpu" else len(z)
        rows = slice(None) if count == len(z) else inside.nonzero().flatten() if count else slice(1)
        some, at = z[rows], t[rows]
        with Evaluating(model.net):
            own = self.both(model.net, some, at, at, cond[rows], guidance[rows])[1]
            away = self.both(model.net, some, at, at, None, None)[1]
        found = v.clone()
        found[rows] += per_row(1 - 1 / scale[rows], own) * (own - away)
        return torch.where(per_row(inside, v).bool(), found, v)
