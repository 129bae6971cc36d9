"""Elementwise transforms with predicted parameters: shift, scale and shift, or spline."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward._checks import is_whole, shown
from pushforward.errors import UserError
from pushforward.functional.affine import bounded_affine
from pushforward.functional.spline import MIN_BIN, spline_of_columns

Raw = Any  # a tensor (parameters, *x.shape), or, for at most two parameters, a tuple of tensors


class Elementwise:
    """An elementwise transform with parameters; to add one, define the number of `parameters` and `__call__`."""

    @property
    def parameters(self) -> int:
        """Number of parameters per element."""
        raise NotImplementedError

    def __call__(self, x: Tensor, raw: Raw, inverse: bool) -> tuple[Tensor, Tensor | None]:
        """Return y and log dy/dx (None for 0) for x and raw parameters (parameters, *x.shape)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Additive(Elementwise):
    """Shift: x + t."""

    parameters: int = 1

    def __call__(self, x: Tensor, raw: Raw, inverse: bool) -> tuple[Tensor, Tensor | None]:
        return (x - raw[0] if inverse else x + raw[0]), None


@dataclass(frozen=True)
class Affine(Elementwise):
    """Scale and shift, with a bounded logarithm of the scale: `functional.bounded_affine`."""

    bound: float
    parameters: int = 2

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise UserError(f"bound is {self.bound}, but the bound of a log-scale must be positive; 2 is usual.")

    def __call__(self, x: Tensor, raw: Raw, inverse: bool) -> tuple[Tensor, Tensor | None]:
        # unbind: gradients are stacked instead of being added to zeros one by one
        scale, shift = raw.unbind() if isinstance(raw, Tensor) else raw
        return bounded_affine(x, scale, shift, self.bound, inverse)


@dataclass(frozen=True)
class Spline(Elementwise):
    """Rational-quadratic splines on [-bound, bound] with identity tails: `functional.rational_quadratic_spline` with `spline_knots`."""

    bins: int
    bound: float

    def __post_init__(self) -> None:
        _check_bins(self.bins)
        if not self.bound > 0:
            raise UserError(f"bound is {self.bound}, but the splines act on [-bound, bound], so it must be positive; 5 is usual.")

    @property
    def parameters(self) -> int:
        return 3 * self.bins - 1

    def __call__(self, x: Tensor, raw: Raw, inverse: bool) -> tuple[Tensor, Tensor | None]:
        return spline_of_columns(x, raw, self.bins, self.bound, inverse)


@dataclass(frozen=True)
class CircularSpline(Elementwise):
    """A rotation of the circle [-pi, pi) and a rational-quadratic spline of it with equal slopes at its ends."""

    bins: int

    def __post_init__(self) -> None:
        _check_bins(self.bins)

    @property
    def parameters(self) -> int:
        return 3 * self.bins + 1

    def __call__(self, x: Tensor, raw: Raw, inverse: bool) -> tuple[Tensor, Tensor | None]:
        shift, curve = raw[0], raw[1:]
        y, log_slope = spline_of_columns(wrapped(x if inverse else x + shift), curve, self.bins, math.pi, inverse, periodic=True)
        return wrapped(y - shift if inverse else y), log_slope


def wrapped(x: Tensor) -> Tensor:
    """Return angles in [-pi, pi)."""
    return torch.remainder(x + math.pi, 2 * math.pi) - math.pi


def _check_bins(bins: int) -> None:
    if not is_whole(bins) or not 2 <= bins < 1 / MIN_BIN:
        raise UserError(f"bins is {shown(bins)}, but a spline has from 2 to {round(1 / MIN_BIN) - 1}; 8 is usual.")
