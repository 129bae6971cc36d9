"""The rectified flow of Stable Diffusion 3 over latents."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.families.path_model import PathModel
from pushforward.paths.linear import Linear
from pushforward.samplers.sampler import Sampler
from pushforward.times import LogitNormal


class LatentModel(PathModel):
    """A PathModel whose states stay float32 for any network dtype: in bfloat16 the rounding of 28 updates would accumulate."""

    saves_frozen = False  # a LoRA's checkpoints hold the LoRA; the two billion numbers that it is added to are in their own file

    def __init__(self, net: nn.Module | Callable[..., Tensor], shape: Sequence[int], sampler: Sampler) -> None:
        super().__init__(net, shape, Linear(), "velocity", LogitNormal(), sampler=sampler)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of latents."""
        dtype: torch.dtype = self.base.like.dtype
        return dtype

    def _apply(self, fn: Any, recurse: bool = True) -> "LatentModel":
        super()._apply(fn, recurse)
        self.base.like = self.base.like.float() if self.base.like.dtype != torch.float64 else self.base.like
        return self
