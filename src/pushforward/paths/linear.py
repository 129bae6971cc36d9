"""Straight lines, the path of flow matching."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.paths.path import Path
from pushforward.registry import export


@export("paths.Linear", example=lambda: Linear())
@dataclass(frozen=True)
class Linear(Path):
    """Straight lines: alpha = 1 - t, sigma = t, so that velocity = noise - data.

    Source: Liu, Gong and Liu, 2209.03003; Lipman et al., 2210.02747 (CondOT); Stable Diffusion 3, 2403.03206.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr)
