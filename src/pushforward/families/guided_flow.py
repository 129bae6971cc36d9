"""A normalizing flow with guidance: bijections that support it extrapolate away from their unconditional prediction."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pushforward.bijections.bijection import Bijection, inverted
from pushforward.bijections.chain import Chain
from pushforward.dispatch import ability
from pushforward.errors import ConditionError, UserError
from pushforward.guidance.around import as_guidance
from pushforward.guidance.cfg import CFG
from pushforward.guidance.guidance import Guidance


class GuidedFlow(Bijection):
    """A chain of bijections, with classifier-free guidance for each that has a method `guided(x, cond, guidance, inverse)`.

    Args:
        bijection: the flow.
        guidance: the guidance, or its scale.

    Raises:
        UserError: no step supports guidance, or the guidance is more than a scale.
    """

    def __init__(self, bijection: Bijection, guidance: Guidance | float) -> None:
        super().__init__()
        self.steps = list(_flat(bijection))
        if not any(ability(step, "guided") for step in self.steps):
            raise UserError(
                f"guidance is {guidance!r}, but a normalizing flow has no use for it, as its map is exact and one pass; leave it out."
            )
        one = as_guidance(guidance)
        if not isinstance(one, CFG):
            raise UserError(f"guidance is {one}, but a flow has no velocity to steer; use CFG or its scale.")
        if one.interval != (0.0, 1.0) or one.rescale:
            raise UserError(f"guidance is {one}, but a flow has no times or velocities: its interval is (0, 1) and rescale 0.")
        self.guidance = one

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return self._through(x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return self._through(z, cond, inverse=True)

    def _through(self, x: Tensor, cond: Any, inverse: bool) -> tuple[Tensor, Any]:
        if cond is None:
            raise ConditionError(f"guidance {self.guidance.scale:g} needs a condition to follow; give cond, or leave guidance out.")
        total: Any = None
        for step in reversed(self.steps) if inverse else self.steps:
            guided = ability(step, "guided")
            if guided is not None and self.guidance.scale != 1:
                x, log_abs_det = guided(x, cond, self.guidance, inverse)
            else:
                x, log_abs_det = inverted(step, x, cond) if inverse else step(x, cond)
            total = log_abs_det if total is None else total + log_abs_det
        return x, total


def _flat(bijection: Bijection) -> Iterator[Any]:
    if isinstance(bijection, Chain):
        for step in bijection.steps:
            yield from _flat(step)
    else:
        yield bijection
