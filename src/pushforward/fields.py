"""Preparation of a field dx/dt = f(x, t, *args) for a solver: dtype, autocast, and a check of its first output."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import DtypeError, ShapeError, UserError

Field = Callable[..., Tensor]
WIDE = frozenset((torch.float32, torch.float64, torch.complex64, torch.complex128))


def widened(f: Field, x: Tensor) -> tuple[Field, Tensor]:
    """Return the field on 32-bit states, and the state in 32 bits; the field is still called with the state's own dtype.

    In 16 bits, rounding of the state would lose the steps of a fine grid.

    Raises:
        DtypeError: the state is neither real nor complex.
    """
    own = x.dtype
    if not (own.is_floating_point or own.is_complex):
        raise DtypeError(f"the state's dtype is {own}, but its solution is a real or complex number at every time; pass x.float().")
    return (lambda x, t, *args: f(x.to(own), t, *args)), x.to(torch.promote_types(own, torch.float32))


def widened_with(f: Field, x: Tensor, rtol: float) -> tuple[Field, Tensor, float]:
    """Return field and state in 32 bits or more, and the relative tolerance: at least the precision of the state's own dtype."""
    if x.dtype in WIDE:
        return f, x, rtol
    return *widened(f, x), max(rtol, torch.finfo(x.dtype).eps)


def fitting(f: Field, slope: Tensor, x: Tensor) -> tuple[Field, Tensor]:
    """Return a field with outputs of x's dtype, and its first output for the state x.

    Raises:
        ShapeError: its output has another shape than x.
        DtypeError: it is complex, but x is real.
    """
    if not isinstance(slope, Tensor):
        raise UserError(f"the field returns a {type(slope).__name__}, but it must return dx/dt as a tensor of x's shape {tuple(x.shape)}.")
    if slope.shape != x.shape:
        raise ShapeError(
            f"the field returns shape {tuple(slope.shape)} for a state of shape {tuple(x.shape)}, but dx/dt has the state's; check the "
            "network's output."
        )
    if slope.dtype == x.dtype:
        return f, slope
    if not torch.can_cast(slope.dtype, x.dtype):
        raise DtypeError(f"the field returns {slope.dtype} for a state of {x.dtype}, which cannot hold it; pass x.to({slope.dtype}).")
    return casting(f, x.dtype), slope.to(x.dtype)


def casting(f: Field, dtype: torch.dtype) -> Field:
    """Return a field whose outputs are cast to a dtype."""
    return lambda x, t, *args: f(x, t, *args).to(dtype)


def in_its_autocast(f: Field, x: Tensor) -> tuple[Field, contextlib.AbstractContextManager[Any]]:
    """Return the field with the current autocast state, wherever it is called, and a context without autocast for the solver."""
    kind = x.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return f, contextlib.nullcontext()
    dtype, cache = torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled()

    def within(x: Tensor, t: Tensor, *args: Any) -> Tensor:
        with torch.autocast(kind, dtype=dtype, cache_enabled=cache):
            return f(x, t, *args)

    return within, torch.autocast(kind, enabled=False)
