"""Precision of computations that need float32 or wider and must not be affected by autocast."""

import contextlib

import torch
from torch import Tensor, nn


def wide(x: Tensor) -> torch.dtype:
    """Return the real dtype for log-determinants, times and matrices of x: float32 or wider."""
    return torch.promote_types(x.dtype.to_real() if x.dtype.is_complex else x.dtype, torch.float32)


def uncast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context without autocast on the device of x; checking first costs a tenth of entering one."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of a module's first floating-point parameter, also in submodules, which its inputs must have."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
