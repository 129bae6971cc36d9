"""Trade resolution for channels: squares of pixels become the channels of one pixel."""

from typing import Any

import torch
from torch import Tensor

from pushforward.bijections.bijection import Bijection
from pushforward.errors import ShapeError
from pushforward.registry import export


@export("bijections.Squeeze", example=lambda: (Squeeze(), torch.randn(3, 4, 2, 4), None), exactness="exact")
class Squeeze(Bijection):
    """Move each 2x2 square of pixels into the channels of one pixel (space to depth).

        z_(c', i, j) = x_(c, 2 i + a, 2 j + b),    c' = (2 a + b) channels + c,    log|det| = 0

    (n, channels, height, width) becomes (n, 4 channels, height / 2, width / 2), so that couplings and convolutions see further.

    Raises:
        ShapeError: height or width is odd.

    Example:
        >>> Squeeze()(torch.arange(4.0).view(1, 1, 2, 2))[0].flatten()
        tensor([0., 1., 2., 3.])

    Source: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803, section 3.6.
    """

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return space_to_depth(x, 2), None

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return depth_to_space(z, 2), None

    def reaches(self, touched: Tensor) -> Tensor:
        return space_to_depth(touched[None], 2)[0]


def space_to_depth(x: Tensor, side: int) -> Tensor:
    """Return images (n, c, h, w) as (n, side² c, h / side, w / side), in channels-last memory format."""
    if x.ndim != 4 or x.shape[2] % side or x.shape[3] % side:
        raise ShapeError(
            f"x has shape {tuple(x.shape)}, but squeezing needs images whose height and width {side} divides; pad or crop them."
        )
    n, channels, height, width = x.shape
    squares = x.permute(0, 2, 3, 1).reshape(n, height // side, side, width // side, side, channels)
    return squares.transpose(2, 3).reshape(n, height // side, width // side, side * side * channels).permute(0, 3, 1, 2)


def depth_to_space(z: Tensor, side: int) -> Tensor:
    """Return the inverse of `space_to_depth`."""
    if z.ndim != 4 or z.shape[1] % (side * side):
        raise ShapeError(f"z has shape {tuple(z.shape)}, but squeezed images have a number of channels that {side * side} divides.")
    n, channels, height, width = z.shape
    squares = z.permute(0, 2, 3, 1).reshape(n, height, width, side, side, channels // (side * side))
    return squares.transpose(2, 3).reshape(n, height * side, width * side, channels // (side * side)).permute(0, 3, 1, 2)
