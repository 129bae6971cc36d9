"""Image conversion: PIL images and tensors in [0, 1] to the autoencoder's [-1, 1] and back; sizes; masks."""

import math
from typing import Any

import numpy
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.errors import ShapeError, UserError


def checked_size(size: Any, step: int) -> tuple[int, int]:
    """Return (height, width); raise if a side is not divisible by `step`, with the nearest valid size.

    Raises:
        UserError: it is not a pair of numbers, or a side is not divisible.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"size is {size!r}, but it must be (height, width) in pixels, such as (1024, 1024).")
    if any(side % step for side in sides):
        height, width = (max(step, step * math.floor(side / step + 0.5)) for side in sides)
        raise UserError(
            f"size is {sides[0]}x{sides[1]} (height x width), but sides must be divisible by {step}; the nearest are {height}x{width}."
        )
    return sides[0], sides[1]


def to_tensor(images: Any) -> Tensor:
    """Return images as a tensor (n, 3, height, width) in [-1, 1].

    Args:
        images: a PIL image, a list of them of one size, or a tensor (3, height, width) or (n, 3, height, width) in [0, 1].

    Raises:
        UserError: another type, or images of different sizes.
    """
    if isinstance(images, Tensor):
        images = images[None] if images.ndim == 3 else images
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ShapeError(
                f"the image is {images.dtype} of shape {tuple(images.shape)}, but it must be float (n, 3, height, width) in [0, 1]."
            )
        return 2 * images.float() - 1
    images = [images] if isinstance(images, PIL.Image.Image) else list(images)
    if not images or not all(isinstance(one, PIL.Image.Image) for one in images):
        raise UserError(
            "the image is neither a PIL image, a list of them, nor a tensor (n, 3, height, width) in [0, 1]; give one of these."
        )
    if len({one.size for one in images}) > 1:
        raise UserError(f"the images have sizes {sorted({one.size for one in images})}, but a batch must have one size; resize them first.")
    arrays = numpy.stack([numpy.asarray(one.convert("RGB")) for one in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_mask(mask: Any, size: tuple[int, int]) -> Tensor:
    """Return a mask (n, 1, height, width) in [0, 1], 1 where to repaint, from a PIL image (white is 1) or a tensor of this size."""
    if isinstance(mask, PIL.Image.Image):
        mask = torch.from_numpy(numpy.array(mask.convert("L"))).float() / 255
    if not isinstance(mask, Tensor):
        raise UserError("the mask is neither a PIL image nor a tensor in [0, 1]; give an image that is white where to repaint.")
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    if tuple(mask.shape[2:]) != size:
        raise UserError(f"the mask is {mask.shape[2]}x{mask.shape[3]}, but the image is {size[0]}x{size[1]} (height x width); resize it.")
    return mask


def shrunk(mask: Tensor, factor: int) -> Tensor:
    """Return a mask of latents: repainted where any of their pixels is."""
    return F.max_pool2d(mask, factor)


def finished(images: Tensor) -> Tensor:
    """Convert the autoencoder's images to [0, 1], float32."""
    return (images.float() / 2 + 0.5).clamp(0, 1)


def to_pil(images: Tensor) -> list[PIL.Image.Image]:
    """Return images (n, 3, height, width) in [0, 1] as PIL images of 8 bits, rounded to the nearest level."""
    levels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [PIL.Image.fromarray(one) for one in levels]
