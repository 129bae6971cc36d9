"""Classifier-free guidance: away from what the model says without the condition (or with a negative one)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import ConditionError, UserError
from pushforward.functional.prediction import per_row
from pushforward.paths import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser


@export("guidance.CFG", example=lambda: CFG(3.0))
@dataclass(frozen=True)
class CFG:
    """Wrap a conditional denoiser into a guided one.

        v = v_negative + scale (v_cond - v_negative)

    Args:
        scale: 1 is no guidance (and costs no second evaluation), more follows the condition more strictly.
        negative: condition to move away from, with leading dimension n; None is the model's unconditional row.
        interval: times (low, high) at which to guide; outside them the plain conditional velocity is used.
        rescale: between 0 and 1, how far the spread of the guided velocity over the event, which guidance inflates, is brought back to
            the conditional one's.

    Raises:
        UserError: an interval or rescale out of range.
        ConditionError: the denoiser has no condition to follow.

    Source: Ho and Salimans, 2207.12598; interval: Kynkäänniemi et al., 2404.07724; rescaling: Lin et al., 2305.08891, section 3.4.
    """

    scale: float
    negative: Any = None
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise UserError(f"interval is {self.interval}, but it must be (low, high) with 0 <= low < high <= 1.")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"rescale is {self.rescale}, but it is a share between 0 and 1.")

    def __call__(self, denoiser: Denoiser) -> "Denoiser | Guided":
        """Return the guided denoiser."""
        if denoiser.cond is None:
            raise ConditionError(f"guidance {self.scale:g} needs a condition to follow; give cond, or leave guidance out.")
        return denoiser if self.scale == 1 else Guided(self, denoiser, self.negative)


class Guided:
    """A denoiser under guidance: two evaluations of the network a call."""

    def __init__(self, guidance: CFG, denoiser: Denoiser, negative: Any) -> None:
        self.guidance, self.denoiser, self.negative, self.path = guidance, denoiser, negative, denoiser.path

    @property
    def args(self) -> tuple[Any, ...]:
        """What is read for each sample."""
        return (self.denoiser.cond, self.negative)

    def bind(self, cond: Any, negative: Any) -> "Guided":
        """Return the same guidance under other conditions."""
        return Guided(self.guidance, self.denoiser.bind(cond), negative)

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the guided velocity at x (n, *shape) and t (n,)."""
        guidance = self.guidance
        plain = self.denoiser(x, t).velocity
        away = self.denoiser.bind(self.negative)(x, t).velocity
        guided = torch.lerp(away, plain, guidance.scale)
        if guidance.rescale:
            wanted, inflated = (v.flatten(1).std(1).clamp_min(torch.finfo(v.dtype).tiny) for v in (plain, guided))
            guided = guided * per_row(1 + guidance.rescale * (wanted / inflated - 1), guided)
        if guidance.interval != (0.0, 1.0):
            low, high = guidance.interval
            guided = torch.where(per_row((t >= low) & (t <= high), guided).bool(), guided, plain)
        return Prediction(self.path, "velocity", guided, x, t)
