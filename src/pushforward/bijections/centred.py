"""The levels of images, or numbers in [0, 1], on [-1, 1], as most image models have them."""

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
    """Map the levels 0 ... L - 1 of quantised data, or numbers in [0, 1], to [-1, 1], without anything fitted to data.

        z = (x - L / 2) / ((L - 1) / 2),    z = 2 x - 1 without levels

    Level k is the cell [k, k + 1) here (see `GenerativeModel.loss`), whose centre goes to 2 k / (L - 1) - 1, the value of an 8-bit pixel k
    in diffusers and torchvision. The floor of a sample is the level to which those round.

    Args:
        levels: L, at least 2, or None for numbers in [0, 1].

    Example:
        >>> Centred(256)(torch.tensor([[0.5, 255.5]]))[0]
        tensor([[-1.,  1.]])
        >>> Centred(None)(torch.tensor([[0.0, 0.25]]))[0]
        tensor([[-1.0000, -0.5000]])
    """

    def __init__(self, levels: int | None) -> None:
        super().__init__()
        self.levels = None if levels is None else whole("levels", levels, 2)
        self._centre: float = 0.5 if self.levels is None else self.levels / 2
        self._width: float = 1 if self.levels is None else self.levels - 1

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return (x - self._centre) * (2 / self._width), self._log_abs_det(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return z * (self._width / 2) + self._centre, -self._log_abs_det(z)

    def _log_abs_det(self, x: Tensor) -> Tensor:
        return torch.tensor(math.prod(x.shape[1:]) * math.log(2 / self._width), dtype=wide(x), device=x.device)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"
