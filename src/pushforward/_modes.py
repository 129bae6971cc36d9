"""The torch modes in which the code runs, and what is allowed when only values are needed."""

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch.autograd import forward_ad


def values_alone() -> bool:
    """Return whether only values are needed: no autograd (forward or reverse mode), no vmap, no compilation."""
    return not torch.is_grad_enabled() and untransformed()


def untransformed() -> bool:
    """Return whether code runs as it is written, with values alone or for one reverse mode: no vmap, no forward mode, no compilation."""
    return not (torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None or forward_mode())


def forward_mode() -> bool:
    """Return whether forward-mode differentiation is on (`torch.func.jvp`, `forward_ad.dual_level`)."""
    return forward_ad._current_level >= 0


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled parts eagerly: torch 2.13 fails to compile them on torch.func's tensors, and they are opaque to observers."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():  # nothing is compiled, or all of it
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
