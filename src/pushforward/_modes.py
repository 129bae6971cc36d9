"""In which modes of torch the code runs: what may be done where only values are wanted."""

import torch
from torch.autograd import forward_ad


def values_alone() -> bool:
    """Return whether only values are wanted of what is computed now: nobody differentiates it (either way), maps or compiles it."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
    )
