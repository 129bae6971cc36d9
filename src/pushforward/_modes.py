"""The torch modes in which the code runs, and what is allowed when only values are needed."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only

P = ParamSpec("P")
R = TypeVar("R")


# Whether torch.func differentiates in inference mode; before torch 2.12 its derivatives are 0 there, without an error.
INFERENCE_DIFFERENTIATES = tuple(int(one) for one in torch.__version__.split(".")[:2]) >= (2, 12)


def values_alone() -> bool:
    """Return whether only values are needed: no autograd (forward or reverse mode), no vmap, no compilation."""
    return not torch.is_grad_enabled() and untransformed()


def untransformed() -> bool:
    """Return whether code runs as it is written, with values alone or for one reverse mode: no vmap, no forward mode, no compilation."""
    return not (torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None or forward_mode())


def forward_mode() -> bool:
    """Return whether forward-mode differentiation is on (`torch.func.jvp`, `forward_ad.dual_level`)."""
    return forward_ad._current_level >= 0


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that differentiates by torch.func, run without inference mode on copies of tensors where that would give 0."""

    @functools.wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        if INFERENCE_DIFFERENTIATES or not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            args, kwargs = tree_map_only(Tensor, torch.clone, (args, kwargs))
            return function(*args, **kwargs)

    return outside


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Run compiled parts eagerly: torch 2.13 fails to compile them on torch.func's tensors, and they are opaque to observers."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():  # nothing is compiled, or all of it
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
