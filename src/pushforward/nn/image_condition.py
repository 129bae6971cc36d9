"""Condition images next to the images of a network: standardised, brought to their resolution and concatenated."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pushforward.conditions import Conditioning, described, known_rows
from pushforward.errors import ConditionError, DtypeError, UserError
from pushforward.functional.patches import repeated, space_to_channels
from pushforward.nn.config import CondBy
from pushforward.nn.context import ImageTokens
from pushforward.nn.embedding import statistics


class ImageCondition(nn.Module):
    """Concatenate condition images to x along the channels, and one more channel: 1 where there is a condition, 0 where there is none.

    Larger images become channels at x's resolution (`space_to_channels`), smaller ones are repeated; their sides are multiples of x's or
    the reverse. Mean and deviation of their channels are 0 and 1 until `fit_condition` has seen conditions.

    Args:
        channels: channels of the condition at x's resolution: those of `channels_at`.

    Raises:
        ConditionError: the condition is no image, or of another shape.
        DtypeError: its dtype is not x's.
    """

    conditional = True
    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    @property
    def added(self) -> int:
        """Number of channels that are added to x."""
        return self.channels + 1

    def forward(self, x: Tensor, cond: Tensor | None) -> Tensor:
        """Return x (n, channels, *sides) with the channels of the condition, zeros for None."""
        if cond is None:
            return torch.cat((x, x.new_zeros(x.shape[0], self.added, *x.shape[2:])), dim=1)
        image = self._at(cond, x)
        if cond.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise DtypeError(f"cond is {cond.dtype}, but x is {x.dtype}; use cond.to({x.dtype}).")
        known, shape = known_rows(image), (-1, *(1,) * (x.ndim - 2))
        image = torch.where(known, (image - self.mean.view(shape)) / self.std.view(shape), 0)
        return torch.cat((x, image.to(x.dtype), known.to(x.dtype).expand(-1, -1, *x.shape[2:])), dim=1)

    def _at(self, cond: Tensor, x: Tensor) -> Tensor:
        """Return condition images at the resolution of x."""
        if isinstance(cond, Tensor) and cond.is_floating_point() and cond.ndim == x.ndim and cond.shape[0] == x.shape[0]:
            image = self._in_channels(cond)
            if image is not None and image.shape[2:] != x.shape[2:] and image.shape[2] and x.shape[2] % image.shape[2] == 0:
                image = repeated(image, x.shape[2] // image.shape[2])
            if image is not None and image.shape[2:] == x.shape[2:]:
                return image
        needed = (x.shape[0], self.channels, *x.shape[2:])
        raise ConditionError(
            f"cond is {described(cond)}, but this network needs images {needed}, or as many numbers at another resolution."
        )

    def _in_channels(self, cond: Tensor) -> Tensor | None:
        """Return images with `channels` channels, larger ones at a lower resolution, None if there is none with so many."""
        for factor in range(1, min(cond.shape[2:]) + 1):
            if cond.shape[1] * factor ** (cond.ndim - 2) == self.channels and all(side % factor == 0 for side in cond.shape[2:]):
                return cond if factor == 1 else space_to_channels(cond, factor)
        return None

    @torch.no_grad()
    def fit_condition(self, cond: Tensor) -> None:
        """Fit mean and deviation of each channel to condition images (n, channels, *sides)."""
        image = self._in_channels(cond)
        if image is not None:
            for held, fitted in zip((self.mean, self.std), statistics(image), strict=True):
                held.copy_(fitted.flatten())


def channels_at(cond_image: Sequence[int], sides: Sequence[int]) -> int:
    """Return how many channels condition images (channels, *sides) have at the resolution of x, whose sides these are.

    Raises:
        ConditionError: neither is a multiple of the other.
    """
    channels, *own = cond_image
    if len(own) == len(sides) and own[0] and sides[0]:
        factor, repeats = max(1, own[0] // sides[0]), max(1, sides[0] // own[0])
        if [side * factor for side in sides] == [side * repeats for side in own]:
            return channels * factor ** len(own)
    raise ConditionError(
        f"cond_image is {tuple(cond_image)}, but x has the sides {tuple(sides)}: concatenated images have the same sides, a multiple or a "
        "fraction of them; resize them, or use a network that reads them by attention (UNet, DiT with cond_by='attention')."
    )


def image_readers(
    kind: Conditioning, sides: Sequence[int], by: CondBy, patch: int, width: int
) -> tuple[ImageCondition | None, ImageTokens | None]:
    """Return the module by which a network of x with these sides reads condition images: concatenation, or tokens for cross-attention.

    Both are None without condition images.

    Raises:
        UserError: there is no such way.
        ConditionError: the sides of the images do not fit.
    """
    if by not in ("concat", "attention"):
        raise UserError(f"cond_by is {by!r}, but it is 'concat' or 'attention'.")
    if kind.cond_image is None:
        return None, None
    if by == "attention":
        return None, ImageTokens(kind.cond_image, patch, width)
    return ImageCondition(channels_at(kind.cond_image, sides)), None
