"""Image conversion: PIL images, tensors and arrays to the autoencoder's [-1, 1] and back; sizes; masks.

A tensor has the channels first, a numpy array last. Their numbers are floats in [0, 1], or uint8 from 0 to 255; a mask may be bool too.
"""

import math
from typing import Any, Literal, get_args

import numpy
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward._checks import is_whole
from pushforward._images import BLACK, WHITE, Mode, check_range, in_8_bits
from pushforward.errors import DtypeError, ShapeError, UserError

Output = Literal["pil", "tensor", "array", "latents"]


def checked_output(output: Any) -> None:
    """Raise an error unless this is a form in which images are returned."""
    if output not in get_args(Output):
        raise UserError(f"output is {output!r}, but it is 'pil', 'tensor', 'array' or 'latents'.")


def checked_size(size: Any, step: int) -> tuple[int, int]:
    """Return (height, width); raise if a side is not divisible by `step`, with the nearest valid size.

    Raises:
        UserError: it is not a pair of numbers, or a side is not divisible.
    """
    sides = (size, size) if is_whole(size) else tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or not all(is_whole(side) and side > 0 for side in sides):
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
        images: a PIL image of any mode or a list of them of one size, which are turned upright and put on white where they are
            transparent; a tensor (3, height, width) or (n, 3, height, width); or a numpy array (height, width, 3) or (n, height,
            width, 3); floats in [0, 1], or uint8 from 0 to 255.

    Raises:
        UserError: another type, numbers outside the range, uint8 whose largest number is 1, or images of different sizes.
        ShapeError: a tensor or an array of another shape.
        DtypeError: a tensor or an array of another dtype.
    """
    if isinstance(images, Tensor | numpy.ndarray):
        values = _plain(images)
        values = values[None] if values.ndim == 3 else values
        if isinstance(images, numpy.ndarray) and values.ndim == 4:
            values = values.movedim(3, 1)
        if values.ndim != 4 or values.shape[1] != 3 or not values.numel():
            needed = "a tensor must be (n, 3, height, width)" if isinstance(images, Tensor) else "an array must be (n, height, width, 3)"
            raise ShapeError(f"the image is {images.dtype} of shape {tuple(images.shape)}, but {needed}.")
        if values.dtype == torch.bool:
            raise DtypeError("the image is bool, but it must be float in [0, 1] or uint8 from 0 to 255; convert it.")
        if values.dtype == torch.uint8 and int(values.max()) == 1:
            raise UserError(
                "the image is uint8 with numbers 0 and 1, but uint8 is from 0 (black) to 255 (white); give floats: image * 1.0 if 1 is "
                "white, or image / 255 if the image is nearly black."
            )
        return 2 * _unit(values, "the image") - 1
    pictures = [images] if isinstance(images, PIL.Image.Image) else images if isinstance(images, list | tuple) else []
    if not pictures or not all(isinstance(one, PIL.Image.Image) for one in pictures):
        raise UserError(
            "the image is neither a PIL image, a list of them, a tensor (n, 3, height, width), nor an array (n, height, width, 3); "
            "give one of these."
        )
    return 2 * _stacked(pictures, "RGB", WHITE).permute(0, 3, 1, 2) - 1


def to_mask(mask: Any, size: tuple[int, int]) -> Tensor:
    """Return a mask (n, 1, height, width) in [0, 1], 1 where to repaint.

    Args:
        mask: a PIL image of any mode (white is 1; transparent parts are kept, as black ones are) or a list of them; or a tensor or an
            array (height, width), (n, height, width) or (n, 1, height, width): bool, floats in [0, 1], or uint8 from 0 to 255.
        size: (height, width) of the image.

    Raises:
        UserError: another type, or numbers outside the range.
        ShapeError: another shape, or another size than the image's.
        DtypeError: another dtype.
    """
    pictures = [mask] if isinstance(mask, PIL.Image.Image) else mask
    if isinstance(pictures, list | tuple) and pictures and all(isinstance(one, PIL.Image.Image) for one in pictures):
        values = _stacked(pictures, "L", BLACK)[:, None]
    elif isinstance(mask, Tensor | numpy.ndarray):
        values = _plain(mask)
        values = values[:, None] if values.ndim == 3 else values.expand(1, 1, *values.shape) if values.ndim == 2 else values
        if values.ndim != 4 or values.shape[1] != 1 or not values.numel():
            raise ShapeError(f"the mask has shape {tuple(mask.shape)}, but it must be (height, width) or (n, 1, height, width).")
        if values.dtype == torch.uint8 and int(values.max()) == 1:
            raise UserError("the mask is uint8 with numbers 0 and 1, but uint8 is from 0 (keep) to 255 (repaint); give mask.bool().")
        values = _unit(values, "the mask")
    else:
        raise UserError("the mask is neither a PIL image, a tensor nor an array; give an image that is white where to repaint.")
    if tuple(values.shape[2:]) != size:
        raise ShapeError(
            f"the mask is {values.shape[2]}x{values.shape[3]}, but the image is {size[0]}x{size[1]} (height x width); resize it."
        )
    return values


def _stacked(pictures: list[PIL.Image.Image] | tuple[PIL.Image.Image, ...], mode: Mode, background: int) -> Tensor:
    """Return PIL images of one size as floats (n, height, width) or (n, height, width, 3) in [0, 1]."""
    read = [in_8_bits(one, mode, background) for one in pictures]
    sizes = sorted({one.size[::-1] for one in read})
    if len(sizes) > 1:
        raise UserError(f"the images have sizes (height, width) {sizes}, but a batch must have one size; resize them first.")
    return torch.from_numpy(numpy.stack([numpy.asarray(one) for one in read])).float() / 255


def _plain(values: Tensor | numpy.ndarray) -> Tensor:
    """Return the numbers of a tensor or an array on the CPU, of a dtype that images may have."""
    if isinstance(values, numpy.ndarray):
        known = values.dtype in (numpy.uint8, numpy.bool_) or values.dtype.kind == "f"
        plain = torch.from_numpy(values.astype(numpy.float32 if values.dtype.kind == "f" else values.dtype)) if known else None
    else:
        known = values.dtype in (torch.uint8, torch.bool) or values.is_floating_point()
        plain = values.detach().cpu()
    if not known or plain is None:
        raise DtypeError(f"the image or mask is {values.dtype}, but it must be float in [0, 1], or uint8 from 0 to 255; convert it.")
    return plain


def _unit(values: Tensor, what: str) -> Tensor:
    """Return numbers of a known dtype as float32 in [0, 1]."""
    if values.dtype == torch.uint8:
        return values.float() / 255
    values = values.float()
    check_range(what, float(values.min()), float(values.max()), 1)
    return values.clamp(0, 1)


def shrunk(mask: Tensor, factor: int) -> Tensor:
    """Return a mask of latents: repainted where any of their pixels is."""
    return F.max_pool2d(mask, factor)


def finished(images: Tensor) -> Tensor:
    """Convert the autoencoder's images to [0, 1], float32."""
    return (images.float() / 2 + 0.5).clamp(0, 1)


def returned(made: Tensor, output: Output) -> Any:
    """Return latents, or images (n, 3, height, width) in [0, 1], in the form that is asked for."""
    if output == "pil":
        return to_pil(made)
    return made.permute(0, 2, 3, 1).contiguous().cpu().numpy() if output == "array" else made


def to_pil(images: Tensor) -> list[PIL.Image.Image]:
    """Return images (n, 3, height, width) in [0, 1] as PIL images of 8 bits, rounded to the nearest level."""
    levels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [PIL.Image.fromarray(one) for one in levels]
