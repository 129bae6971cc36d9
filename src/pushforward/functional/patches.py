"""Images as sequences of patches, and back."""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pushforward.errors import ShapeError
from pushforward.registry import export


@export("functional.patchify", example=lambda: (torch.randn(2, 3, 4, 6, dtype=torch.float64), 2))
def patchify(x: Float[Tensor, "n channels height width"], size: int) -> Float[Tensor, "n tokens features"]:
    """Cut images into square patches, row by row: (n, channels, height, width) to (n, tokens, channels size²).

    Args:
        x: images (n, channels, height, width).
        size: side of a patch in pixels; must divide height and width.

    Returns:
        Tokens (n, height width / size², channels size²).

    Raises:
        ShapeError: size does not divide the image.

    Example:
        >>> patchify(torch.zeros(1, 3, 8, 8), 2).shape
        torch.Size([1, 16, 12])
    """
    n, channels, height, width = x.shape
    if height % size or width % size:
        raise ShapeError(f"an image of {height}x{width} cannot be cut into patches of {size}x{size}; use a size that divides both sides.")
    tokens = (height // size) * (width // size)
    if not n:  # pixel_unshuffle has no gradient for no images
        return x.reshape(0, tokens, channels * size * size)
    return F.pixel_unshuffle(x, size).reshape(n, channels * size * size, tokens).transpose(1, 2)


@export("functional.unpatchify", example=lambda: (torch.randn(2, 6, 12, dtype=torch.float64), 2, 4, 6))
def unpatchify(tokens: Float[Tensor, "n tokens features"], size: int, height: int, width: int) -> Float[Tensor, "n channels height width"]:
    """Assemble patches into images: the inverse of `patchify`.

    Args:
        tokens: patches (n, height width / size², channels size²).
        size: side of a patch in pixels.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Returns:
        Images (n, channels, height, width).

    Example:
        >>> x = torch.randn(1, 3, 8, 8)
        >>> bool((unpatchify(patchify(x, 2), 2, 8, 8) == x).all())
        True
    """
    n, _, features = tokens.shape
    rows, columns, channels = height // size, width // size, features // (size * size)
    x = tokens.reshape(n, rows, columns, channels, size, size)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, height, width)


def space_to_channels(x: Tensor, factor: int) -> Tensor:
    """Return blocks of pixels as channels: (n, channels, *sides) as (n, channels factor^d, *sides / factor) with d sides."""
    n, channels, *sides = x.shape
    d = len(sides)
    cut = x.reshape(n, channels, *itertools.chain.from_iterable((side // factor, factor) for side in sides))
    blocks = cut.permute(0, 1, *range(3, 3 + 2 * d, 2), *range(2, 2 + 2 * d, 2))
    return blocks.reshape(n, channels * factor**d, *(side // factor for side in sides))


def repeated(x: Tensor, factor: int) -> Tensor:
    """Return (n, channels, *sides) with each pixel repeated along every side."""
    for axis in range(2, x.ndim):
        x = x.repeat_interleave(factor, axis)
    return x
