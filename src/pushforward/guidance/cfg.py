"""Classifier-free guidance: extrapolation away from the unconditional prediction (or that of a negative condition)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.extrapolation import FromNegative
from pushforward.paths.path import Path
from pushforward.registry import export


@export("guidance.CFG", example=lambda: CFG(3.0))
@dataclass(frozen=True)
class CFG(FromNegative):
    """Classifier-free guidance of a conditional denoiser.

        v = v_negative + scale (v_cond - v_negative)

    Args:
        scale: 1 is no guidance (and costs no second evaluation); larger values follow the condition more strictly.
        negative: condition to move away from, with leading dimension n; None is the model's null condition.
        interval: times (low, high) at which to guide; outside them the plain conditional velocity is used.
        rescale: between 0 and 1, how far the standard deviation of the guided velocity over the event, which guidance increases, is
            rescaled to that of the conditional velocity. An event of one element has none, and is not rescaled.

    Raises:
        UserError: interval or rescale is out of range.
        ConditionError: the denoiser has no condition.

    Source: Ho and Salimans, 2207.12598; interval: Kynkäänniemi et al., 2404.07724; rescaling: Lin et al., 2305.08891, section 3.4.
    """

    scale: float
    negative: Any = None
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rescale <= 1:
            raise UserError(f"rescale is {self.rescale}, but it is a share between 0 and 1.")

    def combined(self, plain: Tensor, other: Tensor, path: Path, x: Tensor, t: Tensor) -> Tensor:
        guided = super().combined(plain, other, path, x, t)
        return guided * per_row(1 + self.rescale * (_spread_ratio(plain, guided) - 1), guided) if self.rescale else guided


def _spread_ratio(wanted: Tensor, inflated: Tensor) -> Tensor:
    """Return the ratio (n,) of two standard deviations over the event; 1 where the second is 0 up to rounding."""
    rounding = 8 * torch.finfo(inflated.dtype).eps * inflated.flatten(1).abs().amax(1)
    wanted, inflated = (v.flatten(1).std(1, correction=0) for v in (wanted, inflated))
    some = inflated > rounding
    return torch.where(some, wanted / torch.where(some, inflated, 1), 1)
