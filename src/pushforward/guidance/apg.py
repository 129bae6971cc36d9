"""Adaptive projected guidance: classifier-free guidance without the part that only saturates."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.extrapolation import FromNegative
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.registry import export


@export("guidance.APG", example=lambda: APG(3.0))
@dataclass(frozen=True)
class APG(FromNegative):
    """Adaptive projected guidance: of the difference that guidance adds to the data prediction, the part along that prediction is reduced.

        D = D_cond + (scale - 1) (d_orthogonal + parallel d_parallel),    d = (D_cond - D_negative) min(1, norm / |D_cond - D_negative|)

    d_parallel is the projection of d on D_cond, which mostly raises contrast and saturation. With parallel=1 and without norm this is
    classifier-free guidance. The paper's momentum is left out: it depends on the steps before, so that no ODE would be solved.

    Args:
        scale: 1 is no guidance; the paper uses larger scales than classifier-free guidance, up to 15.
        negative: condition to move away from, with leading dimension n; None is the model's null condition.
        interval: times (low, high) at which to guide; outside them the plain conditional prediction is used.
        parallel: weight of the parallel part, the paper's eta.
        norm: largest norm of d over the event, in the model's units (of `preprocess`), the paper's r; None is no limit.

    Raises:
        UserError: interval is out of range, parallel is negative, or norm is not positive.
        ConditionError: the denoiser has no condition.

    Example:
        >>> from pushforward.paths import Linear
        >>> from pushforward.samplers import Denoiser
        >>> data = lambda x, t, cond: torch.tensor([[1.0, 1.0]]) if cond is None else torch.tensor([[2.0, 0.0]])
        >>> denoiser = Denoiser(data, Linear(), "data", cond=torch.tensor([1]))
        >>> APG(2.0)(denoiser)(torch.zeros(1, 2), torch.tensor([0.5])).data  # d is (1, -1), of which (0, -1) is orthogonal to (2, 0)
        tensor([[ 2., -1.]])

    Source: Sadat et al., Eliminating oversaturation and artifacts of high guidance scales, 2024, arXiv 2410.02416, section 4.
    """

    scale: float
    negative: Any = None
    interval: tuple[float, float] = (0.0, 1.0)
    parallel: float = 0.0
    norm: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parallel < 0:
            raise UserError(f"parallel is {self.parallel}, but it is a weight of 0 or more; 0 leaves the parallel part out.")
        if self.norm is not None and not self.norm > 0:
            raise UserError(f"norm is {self.norm}, but it must be positive; None is no limit.")

    def combined(self, plain: Tensor, other: Tensor, path: Path, x: Tensor, t: Tensor) -> Tensor:
        # Velocities differ by d / b in units of the data prediction, where data = a x + b velocity: the projection is the same.
        d = plain - other
        if self.norm is not None:
            _, b = path.coefficients("velocity", "data", t)
            size = d.flatten(1).norm(dim=1) * torch.as_tensor(b, dtype=d.dtype).abs()
            d = d * per_row((self.norm / size.clamp_min(torch.finfo(d.dtype).tiny)).clamp_max(1), d)
        along = Prediction(path, "velocity", plain, x, t).data.to(d.dtype)
        parallel = along * per_row(projected(d, along), d)
        return plain + (self.scale - 1) * (d - (1 - self.parallel) * parallel)


def projected(one: Tensor, other: Tensor) -> Tensor:
    """Return <one, other> / <other, other> of each row (n,), 0 where the other is 0."""
    one, other = one.flatten(1), other.flatten(1)
    square = other.square().sum(1)
    return torch.where(square > 0, (one * other).sum(1) / torch.where(square > 0, square, 1), 0)
