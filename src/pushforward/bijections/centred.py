"""The levels of images on [-1, 1], as most image models have them."""

import math
from typing import Any

import torch
from torch import Tensor

from pushforward._checks import whole
from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection
from pushforward.registry import export


def _example() -> tuple:
    return Centred(256), 256 * torch.rand(3, 2), None


@export("bijections.Centred", example=_example, exactness="exact")
class Centred(Bijection):
    """Map the levels 0 ... L - 1 of quantised data to [-1, 1], without anything fitted to data.

        z = (x - L / 2) / ((L - 1) / 2)

    Level k is the cell [k, k + 1) here (see `GenerativeModel.loss`), whose centre goes to 2 k / (L - 1) - 1, the value of an 8-bit pixel k
    in diffusers and torchvision. The floor of a sample is the level to which those round.

    Args:
        levels: L, at least 2.

    Example:
        >>> Centred(256)(torch.tensor([[0.5, 255.5]]))[0]
        tensor([[-1.,  1.]])
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = whole("levels", levels, 2)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return (x - self.levels / 2) * (2 / (self.levels - 1)), self._log_abs_det(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return z * ((self.levels - 1) / 2) + self.levels / 2, -self._log_abs_det(z)

    def _log_abs_det(self, x: Tensor) -> Tensor:
        return torch.tensor(math.prod(x.shape[1:]) * math.log(2 / (self.levels - 1)), dtype=wide(x), device=x.device)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"
