"""CFG-Zero*: classifier-free guidance with the unconditional velocity fitted to the conditional one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.apg import projected
from pushforward.guidance.extrapolation import FromNegative
from pushforward.paths.path import Path
from pushforward.registry import export


@export("guidance.CFGZeroStar", example=lambda: CFGZeroStar(3.0))
@dataclass(frozen=True)
class CFGZeroStar(FromNegative):
    """Classifier-free guidance in which the unconditional velocity is scaled to be as near as possible to the conditional one.

        v = s v_negative + scale (v_cond - s v_negative),    s = <v_cond, v_negative> / |v_negative|²
        v = 0 for t > 1 - zero

    The scale s of each sample corrects velocities that are too long or too short, as those of a model that is not trained to the end are.

    Args:
        scale: 1 is no guidance; larger values follow the condition more strictly.
        negative: condition to move away from, with leading dimension n; None is the model's null condition.
        interval: times (low, high) at which to guide; outside them the plain conditional velocity is used.
        zero: share of time at the noise end in which x stays as it is, as the first velocities of such a model are worse than none. The
            paper's value is the first of 28 steps, 0.03; 0 is none.

    Raises:
        UserError: interval is out of range, or zero is not from 0 to 1.
        ConditionError: the denoiser has no condition.

    Example:
        >>> from pushforward.paths import Linear
        >>> from pushforward.samplers import Denoiser
        >>> velocity = lambda x, t, cond: torch.tensor([[1.0, 0.0]]) if cond is None else torch.tensor([[2.0, 2.0]])
        >>> denoiser = Denoiser(velocity, Linear(), cond=torch.tensor([1]))
        >>> CFGZeroStar(3.0)(denoiser)(torch.zeros(1, 2), torch.tensor([0.5])).velocity  # s is 2
        tensor([[2., 6.]])

    Source: Fan et al., CFG-Zero*: improved classifier-free guidance for flow matching models, 2025, arXiv 2503.18886, section 4.
    """

    scale: float
    negative: Any = None
    interval: tuple[float, float] = (0.0, 1.0)
    zero: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.zero < 1:
            raise UserError(f"zero is {self.zero}, but it is a share of time from 0 up to 1, such as 0.03.")

    @property
    def changes_nothing(self) -> bool:
        return self.scale == 1 and self.zero == 0

    def combined(self, plain: Tensor, other: Tensor, path: Path, x: Tensor, t: Tensor) -> Tensor:
        fitted = other * per_row(projected(plain, other), other)
        guided = torch.lerp(fitted, plain, self.scale)
        return torch.where(per_row(t > 1 - self.zero, guided).bool(), 0, guided) if self.zero else guided
