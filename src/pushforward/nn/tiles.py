"""Apply a function to an image in overlapping tiles, blended linearly where they overlap."""

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(function: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int) -> Tensor:
    """Return function(x) assembled from its values on square tiles, in the memory of one tile and of the result.

    Each tile has weights that rise linearly over the overlap from each of its sides; the weights at a pixel are divided by their sum. A
    function of the entire image (means, attention) sees only one tile, so the result is close, not equal.

    Args:
        function: maps images (n, channels, height, width) to images whose sides are a fixed multiple or fraction of theirs.
        x: images (n, channels, height, width).
        tile: side of a tile.
        overlap: least overlap of neighbouring tiles, less than `tile`.
    """
    height, width = x.shape[2:]
    whole = total = None
    for top in starts(height, tile, overlap):
        for left in starts(width, tile, overlap):
            part = x[:, :, top : top + tile, left : left + tile]
            value = function(part)
            # Ratio of the result's sides to those of x: the same for every tile, kept as a fraction.
            up, down = value.shape[2], part.shape[2]
            ramps = [ramp(side, max(1, overlap * up // down), value) for side in value.shape[2:]]
            weight = ramps[0][:, None] * ramps[1]
            if whole is None or total is None:
                whole = value.new_zeros(*value.shape[:2], height * up // down, width * up // down)
                total = weight.new_zeros(whole.shape[2:])
            y, z = top * up // down, left * up // down
            window = slice(y, y + value.shape[2]), slice(z, z + value.shape[3])
            whole[:, :, *window] += value * weight
            total[window] += weight
    assert whole is not None
    assert total is not None
    return whole / total


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles along a side start: every tile - overlap pixels, the last one such that it ends with the side."""
    if side <= tile:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def ramp(side: int, overlap: int, like: Tensor) -> Tensor:
    """Return weights (side,) that rise linearly over the overlap from both ends, never quite from zero."""
    place = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5
    return (torch.minimum(place, side - place) / overlap).clamp_max(1)
