"""The rectified flow of Stable Diffusion 3 over latents."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.conditions import repeated, rows_of
from pushforward.guidance.around import as_guidance
from pushforward.guidance.guidance import Guidance, Guided
from pushforward.paths.linear import Linear
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.sampler import Sampler
from pushforward.sd3.generation import with_negative
from pushforward.sd3.latent_path import LatentPath
from pushforward.times import LogitNormal, Times


class LatentModel(LatentPath):
    """A PathModel whose states stay float32 for any network dtype: in bfloat16 the rounding of 28 updates would accumulate.

    Args:
        net: called as net(x, t, cond).
        shape: (channels, height, width) of a latent.
        sampler: the default sampler.
        times: distribution of the training times, of which 1 is noise.
        drop_cond: share of the rows that are trained on `null`.
        null: the condition of one row that stands for no prompt, away from which samples are guided; None is the network's own.
    """

    saves_frozen = False  # a LoRA's checkpoints hold the LoRA; the two billion numbers that it is added to are in their own file

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        shape: Sequence[int],
        sampler: Sampler,
        times: Times | None = None,
        drop_cond: float = 0.0,
        null: Any = None,
    ) -> None:
        times = LogitNormal() if times is None else times
        super().__init__(net, shape, Linear(), "velocity", times, sampler=sampler, drop_cond=drop_cond, null=null)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of latents."""
        dtype: torch.dtype = self.base.like.dtype
        return dtype

    def denoiser(self, cond: Any = None, guidance: Guidance | float | None = None) -> Denoiser | Guided:
        """Return the denoiser that samplers call; guidance without a negative condition is away from `null`, if there is one."""
        steered = as_guidance(guidance)
        if cond is not None and self.null is not None:
            steered = with_negative(steered, lambda: repeated(self.null, rows_of(cond)))
        return super().denoiser(cond, steered)

    def _apply(self, fn: Any, recurse: bool = True) -> "LatentModel":
        super()._apply(fn, recurse)
        self.base.like = self.base.like.float() if self.base.like.dtype != torch.float64 else self.base.like
        return self
