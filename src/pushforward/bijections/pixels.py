"""Bijections of images that apply the same affine map at every pixel: several in a row are merged into one matrix.

A chain multiplies their small matrices (channels by channels) and transforms the images once, also in training.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward import dispatch
from pushforward._precision import uncast
from pushforward.bijections.bijection import Bijection
from pushforward.errors import ShapeError, UserError

Affine = tuple[Tensor, Tensor, Tensor]  # a matrix (channels, channels), a shift (channels,), and log|det| of the matrix


class PixelAffine(Bijection):
    """z_ij = W x_ij + b at each pixel, log|det| = height width log|det W|; to add one, implement `affine`.

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

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return at_each_pixel(x, *composed([self], inverse=False))

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return at_each_pixel(z, *composed([self], inverse=True))

    def extra_repr(self) -> str:
        return f"{self.channels}"


class PixelAffines(Bijection):
    """Adjacent pixel-affine steps of a chain as one matrix; the parameters remain those of the steps.

    Args:
        steps: the adjacent steps, in the order from data to noise.
    """

    def __init__(self, steps: Sequence[PixelAffine]) -> None:
        super().__init__()
        self.steps = tuple(steps)  # not registered as submodules: the chain owns them

    @dispatch.dispatched
    def affine(self, inverse: bool = False) -> Affine:
        """Return the matrix, the shift and log|det| of all steps, or of their inverse."""
        return composed(self.steps, inverse)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return at_each_pixel(x, *self.affine())

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return at_each_pixel(z, *self.affine(inverse=True))

    def may_stand_in(self) -> bool:
        """Return whether merging gives the same as calling the steps: none of them is overridden, hooked or wrapped."""
        return dispatch.enabled() and all(_as_written(step) for step in self.steps)


def _as_written(step: PixelAffine) -> bool:
    return dispatch.inherits(step, PixelAffine, "__call__", "forward", "inverse") and dispatch.plainly_called(step)


def with_runs(steps: Sequence[Any]) -> list[Any]:
    """Return the steps with each run of adjacent pixel-affine steps in one module."""
    found: list[Any] = []
    run: list[PixelAffine] = []
    for step in steps:
        if isinstance(step, PixelAffine):
            run.append(step)
            continue
        if run:
            found.append(PixelAffines(run))
            run = []
        found.append(step)
    return [*found, PixelAffines(run)] if run else found


def callable_steps(runs: Sequence[Any]) -> Iterator[Any]:
    """Yield the modules to call: each run as one if its steps are unmodified, else the steps themselves."""
    for one in runs:
        if isinstance(one, PixelAffines) and not one.may_stand_in():
            yield from one.steps
        else:
            yield one


def at_each_pixel(x: Tensor, matrix: Tensor, shift: Tensor, log_abs_det: Tensor) -> tuple[Tensor, Tensor]:
    """Return matrix x_ij + shift for images x (n, channels, height, width), in channels-last memory; and log_abs_det of one image."""
    if x.ndim != 4 or x.shape[1] != matrix.shape[0]:
        raise ShapeError(f"x has shape {tuple(x.shape)}, but this bijection needs images (n, {matrix.shape[0]}, height, width).")
    n, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    if matrix.dtype != x.dtype:
        matrix, shift = matrix.to(x.dtype), shift.to(x.dtype)
    with uncast(x):
        moved = torch.addmm(shift, pixels, matrix.T)
    return moved.view(n, height, width, channels).permute(0, 3, 1, 2), log_abs_det * (height * width)


def composed(steps: Sequence[PixelAffine], inverse: bool) -> Affine:
    """Return the composed affine map of the steps, or its inverse."""
    first, *others = steps
    with uncast(next(first.parameters())):
        matrix, shift, log_abs_det = first.affine()
        shift = shift.expand(len(matrix))  # one number for all channels is added to each, also where it is undone
        for step in others:
            w, b, more = step.affine()
            if w.dtype is not matrix.dtype:
                wider = torch.promote_types(w.dtype, matrix.dtype)
                w, b, matrix, shift = w.to(wider), b.to(wider), matrix.to(wider), shift.to(wider)
            matrix, shift, log_abs_det = w @ matrix, torch.addmv(b, w, shift), log_abs_det + more
        if not inverse:
            return matrix, shift, log_abs_det
        back = torch.linalg.inv(matrix)
        return back, -(back @ shift), -log_abs_det
