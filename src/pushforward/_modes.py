"""The torch modes in which the code runs, and what is allowed when only values are needed."""

import torch
from torch.autograd import forward_ad


def values_alone() -> bool:
    """Return whether only values are needed: no autograd (forward or reverse mode), no vmap, no compilation."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
    )
