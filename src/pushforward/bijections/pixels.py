"""Bijections of images that do the same affine map at every pixel: several in a row are one matrix, kept while their parameters stay.

A chain multiplies their small matrices (channels by channels) and touches the images once, in training too. Where no gradient is wanted,
matrix and inverse are kept as long as the parameters have the same values. Autograd's counter of writes would be quicker to ask, but
torch's fused optimisers and writes through `.data` do not count. Values are compared on the CPU alone; elsewhere to look stalls the queue,
which costs more than the matrices.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.columns import wide
from pushforward.errors import ShapeError, UserError

Affine = tuple[Tensor, Tensor, Tensor]  # a matrix (channels, channels), a shift (channels,), and log|det| of the matrix


class PixelAffine(Bijection):
    """z_ij = W x_ij + b at each pixel, log|det| = height width log|det W|; to add one, write `affine`.

    Args:
        channels: channels of an image.

    Raises:
        UserError: channels < 1.
        ShapeError: x has another number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 1:
            raise UserError(f"channels is {channels}, but it must be at least 1.")
        self.channels = channels

    def affine(self) -> Affine:
        """Return W, b and log|det W| in float32 or wider."""
        raise NotImplementedError

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return _for_each_image(*at_each_pixel(x, *folded([self], inverse=False)))

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return _for_each_image(*at_each_pixel(z, *folded([self], inverse=True)))

    def extra_repr(self) -> str:
        return f"{self.channels}"


class Folded:
    """Neighbouring steps of a chain that are affine at each pixel, as one; a log_abs_det is one number for all images."""

    def __init__(self, steps: Sequence[PixelAffine]) -> None:
        self.steps = steps

    def __call__(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return the images mapped by all steps, and log_abs_det."""
        return at_each_pixel(x, *folded(self.steps, inverse=False))

    def affine(self) -> Affine:
        """Return the matrix, the shift and log|det| of all steps."""
        return folded(self.steps, inverse=False)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return the images mapped by the inverses of all steps, from the last, and log_abs_det."""
        return at_each_pixel(z, *folded(self.steps, inverse=True))


def with_folds(steps: Sequence[Bijection]) -> list[Any]:
    """Return the steps with each run of neighbours that are affine at each pixel in one."""
    found: list[Any] = []
    run: list[PixelAffine] = []
    for step in steps:
        if isinstance(step, PixelAffine):
            run.append(step)
            continue
        if run:
            found.append(Folded(run))
            run = []
        found.append(step)
    return [*found, Folded(run)] if run else found


def folded(steps: Sequence[PixelAffine], inverse: bool) -> Affine:
    """Return the affine map of steps in a row, or of its inverse."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _composed(steps, inverse)
    now = [one for step in steps for held in (step._parameters, step._buffers) for one in held.values() if one is not None]
    if any(one.device.type != "cpu" for one in now):
        return _composed(steps, inverse)
    name = "_kept_inverse" if inverse else "_kept"
    kept = vars(steps[0]).get(name)
    if kept is None or len(kept[0]) != len(now) or not all(map(_same, kept[0], now)):
        kept = [one.detach().clone() for one in now], _composed(steps, inverse)
        object.__setattr__(steps[0], name, kept)
    affine: Affine = kept[1]
    return affine


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def at_each_pixel(x: Tensor, matrix: Tensor, shift: Tensor, log_abs_det: Tensor) -> tuple[Tensor, Tensor]:
    """Return matrix x_ij + shift for images x (n, channels, height, width), channels innermost in memory; and log_abs_det of one image."""
    if x.ndim != 4 or x.shape[1] != matrix.shape[0]:
        raise ShapeError(f"x has shape {tuple(x.shape)}, but this bijection needs images (n, {matrix.shape[0]}, height, width).")
    n, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    if matrix.dtype != x.dtype:
        matrix, shift = matrix.to(x.dtype), shift.to(x.dtype)
    with exact(x):
        moved = torch.addmm(shift, pixels, matrix.T)
    return moved.view(n, height, width, channels).permute(0, 3, 1, 2), log_abs_det * (height * width)


def exact(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a region without autocast on the device of x; asking first costs a tenth of opening one."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def _for_each_image(y: Tensor, log_abs_det: Tensor) -> tuple[Tensor, Tensor]:
    return y, log_abs_det.to(wide(y)).expand(len(y))


def _composed(steps: Sequence[PixelAffine], inverse: bool) -> Affine:
    first, *others = steps
    with exact(next(first.parameters())):
        matrix, shift, log_abs_det = first.affine()
        for step in others:
            w, b, more = step.affine()
            matrix, shift, log_abs_det = w @ matrix, torch.addmv(b, w, shift), log_abs_det + more
        if not inverse:
            return matrix, shift, log_abs_det
        back = torch.linalg.inv(matrix)
        return back, -(back @ shift), -log_abs_det
