"""Maps between the real line and an interval: logit and sigmoid."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection
from pushforward.errors import UserError
from pushforward.registry import export


@export("bijections.Logit", example=lambda: (Logit(-1.0, 2.0), 3 * torch.rand(4, 3) - 1, None), exactness="exact")
class Logit(Bijection):
    """Map an interval to the real line.

        p = margin + (1 - 2 margin) (x - low) / (high - low),    z = log p - log(1 - p)
        log|det| = sum log(1 - 2 margin) - log(high - low) - log p - log(1 - p)

    The margin keeps the interval's ends, where many pixels of an image are, away from infinity. An x for which p is not in (0, 1) is
    outside the domain: z is NaN (infinite where p is 0 or 1) and log|det| is -inf, so that a model with this `preprocess` gives it
    density 0. The inverse never reaches p = 0 or 1.

    Args:
        low: the interval's lower end.
        high: its upper end, such as 256 for 8-bit data dequantised by `loss`.
        margin: fraction of (0, 1) left free at either end, from 0 to below 0.5.

    Raises:
        UserError: low is not below high, or the margin is out of range.

    Example:
        >>> Logit(0.0, 1.0)(torch.tensor([[0.5]]))[0]
        tensor([[0.]])

    Source: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803, section 4.1.
    Ours: the margin (their alpha) is at both ends.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, margin: float = 0.05) -> None:
        super().__init__()
        if not low < high:
            raise UserError(f"low is {low} and high is {high}, but an interval has low < high.")
        if not 0 <= margin < 0.5:
            raise UserError(f"margin is {margin}, but it is a share from 0 to below 0.5; 0.05 is usual.")
        self.low, self.high, self.margin = low, high, margin
        self.slope = (1 - 2 * margin) / (high - low)  # of p over x

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        dtype = wide(x)
        p = self.margin + self.slope * (x.to(dtype) - self.low)
        outside = (p <= 0) | (p >= 1)
        z = torch.logit(torch.where(outside, 0.5, p))  # so that the gradients of rows inside are finite
        log_abs_det = torch.where(outside, -math.inf, self._log_slope(z)).flatten(1).sum(1)
        return torch.where(outside, torch.logit(p.detach()), z).to(x.dtype), log_abs_det

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        dtype = wide(z)
        x = self.low + (torch.sigmoid(z.to(dtype)) - self.margin) / self.slope
        return x.to(z.dtype), -self._log_slope(z.to(dtype)).flatten(1).sum(1)

    def _log_slope(self, z: Tensor) -> Tensor:
        return math.log(self.slope) + F.softplus(z) + F.softplus(-z)  # -log p - log(1 - p), exact in both tails

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}, margin={self.margin:g}"


@export("bijections.Sigmoid", example=lambda: (Sigmoid(), 1 - 0.9 * torch.rand(4, 3), None), exactness="exact")
class Sigmoid(Bijection):
    """Map the real line to (0, 1); the inverse is the logit.

        z = 1 / (1 + exp(-x)),    log|det| = -sum log(1 + exp(x)) + log(1 + exp(-x))

    The inverse of a number outside (0, 1) is NaN.

    Example:
        >>> Sigmoid()(torch.zeros(1, 2))[0]
        tensor([[0.5000, 0.5000]])
    """

    def __init__(self) -> None:
        super().__init__()
        self.logit = Logit(0.0, 1.0, 0.0)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.logit.inverse(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self.logit(z)
