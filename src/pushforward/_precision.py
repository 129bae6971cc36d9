"""In which precision numbers are computed that must not lose any: float32 or wider, out of reach of autocast."""

import contextlib

import torch
from torch import Tensor, nn


def wide(x: Tensor) -> torch.dtype:
    """Return the real dtype in which log-determinants, times and matrices beside x are computed: float32 or wider."""
    return torch.promote_types(x.dtype.to_real() if x.dtype.is_complex else x.dtype, torch.float32)


def uncast(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a region without autocast on the device of x; asking first costs a tenth of opening one."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the dtype of a module's first floating parameter, in which it wants its inputs, wherever in it that parameter is."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
