"""Images as sequences of patches, and back."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pushforward.errors import ShapeError
from pushforward.registry import export


@export("functional.patchify", example=lambda: (torch.randn(2, 3, 4, 6, dtype=torch.float64), 2))
def patchify(x: Float[Tensor, "n channels ..."], size: int) -> Float[Tensor, "n tokens features"]:
    """Cut images into square patches, row by row: (n, channels, height, width) to (n, tokens, channels size²).

    Series (n, channels, length) and volumes (n, channels, depth, height, width) likewise, into patches of size and size³.

    Args:
        x: images (n, channels, *sides).
        size: side of a patch in pixels; must divide all sides.

    Returns:
        Tokens (n, height width / size², channels size²).

    Raises:
        ShapeError: size does not divide the sides.

    Example:
        >>> patchify(torch.zeros(1, 3, 8, 8), 2).shape
        torch.Size([1, 16, 12])
    """
    n, channels, *sides = x.shape
    if any(side % size for side in sides):
        patch = by_sides([size] * len(sides))
        raise ShapeError(f"an image of {by_sides(sides)} cannot be cut into patches of {patch}; use a size that divides all sides.")
    features, tokens = channels * size ** len(sides), math.prod([side // size for side in sides])  # a list, which torch.compile traces
    if not n:  # pixel_unshuffle has no gradient for no images
        return x.reshape(0, tokens, features)
    blocks = F.pixel_unshuffle(x, size) if len(sides) == 2 else space_to_channels(x, size)
    return blocks.reshape(n, features, tokens).transpose(1, 2)


@export("functional.unpatchify", example=lambda: (torch.randn(2, 6, 12, dtype=torch.float64), 2, 4, 6))
def unpatchify(tokens: Float[Tensor, "n tokens features"], size: int, *sides: int) -> Float[Tensor, "n channels ..."]:
    """Assemble patches into images: the inverse of `patchify`.

    Args:
        tokens: patches (n, height width / size², channels size²).
        size: side of a patch in pixels.
        sides: height and width of the image in pixels; the length of a series; depth, height and width of a volume.

    Returns:
        Images (n, channels, *sides).

    Example:
        >>> x = torch.randn(1, 3, 8, 8)
        >>> bool((unpatchify(patchify(x, 2), 2, 8, 8) == x).all())
        True
    """
    n, _, features = tokens.shape
    d, cells = len(sides), [side // size for side in sides]
    x = tokens.reshape(n, *cells, features // size**d, *(size,) * d)
    places = itertools.chain.from_iterable([(1 + k, 2 + d + k) for k in range(d)])  # a side's cells, then the pixels in each
    return x.permute(0, 1 + d, *places).reshape(n, features // size**d, *sides)


def by_sides(sides: Sequence[int]) -> str:
    """Return sides as text: 28x28."""
    return "x".join(map(str, sides))


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
