"""Where a faster way of computing is tried: one decorator, one check, one switch.

A plain method is marked `@dispatched`; a module of `fast/` registers a faster way of it with `@fast_way(kind, method)` for one exact type.
The faster way may read parameters instead of calling submodules, so it is only taken where that makes no difference: nothing has been done
to the module or to anything in it (`untouched`), and no autocast is on. Everywhere else, and under `pushforward.fast.disabled()`, the plain
method runs, and calls every submodule as PyTorch does.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from pushforward.registry import export

F = TypeVar("F", bound=Callable[..., Any])

# Which module of `fast/` holds the ways of the types that a module defines; imported when one of those types is first dispatched.
PAGES = {
    "pushforward.nn.mlp": "pushforward.fast.mlp",
    "pushforward.nn.made": "pushforward.fast.made",
    "pushforward.nn.coupling": "pushforward.fast.coupling",
    "pushforward.nn.causal": "pushforward.fast.causal",
    "pushforward.nn.mmdit": "pushforward.fast.mmdit",
    "pushforward.bijections.pixels": "pushforward.fast.pixels",
}

_ways: dict[tuple[type, str], tuple[Callable[..., Any], Callable[[], bool] | None]] = {}
_known: dict[type, Callable[..., Any]] = {}  # exact types that a fast way may go round, with the forward that they were defined with
_pages: set[str] = set()
_enabled = True


@export("fast.disabled")
@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Compute everything in the plain way inside a `with` block.

    The results are those of the fast ways up to rounding; it is for comparing, for debugging and for what the fast ways cannot see, such as
    a method that was replaced on a class of this library.

    Returns:
        A context manager, which may be nested.

    Example:
        >>> import torch
        >>> net = pf.nn.MLP(2, 2, (8,))
        >>> with pf.fast.disabled():
        ...     value, divergence = net.value_and_divergence(torch.zeros(3, 2))
        >>> divergence.shape
        torch.Size([3])
    """
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def enabled() -> bool:
    """Return whether fast ways may be taken at all."""
    return _enabled


def known(*kinds: type[nn.Module]) -> None:
    """State that a fast way knows modules of these exact types, so that it may read their parameters instead of calling them."""
    for kind in kinds:
        _known[kind] = kind.forward


known(nn.Linear, nn.Conv2d, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.Sequential, nn.GELU, nn.SiLU, nn.Identity)
for _container in (nn.ModuleList, nn.ModuleDict):
    _known[_container] = _container.forward


def fast_way(kind: type[nn.Module], method: str, when: Callable[[], bool] | None = None) -> Callable[[F], F]:
    """Register a function as the fast way of a method, for instances of exactly this type; it is called as the method is.

    It may return NotImplemented, and the plain method runs.

    Args:
        kind: the exact type.
        method: name of the plain method, or of what callers ask `way_of` for.
        when: what must hold besides, such as `values_alone`: asked first, as it costs less than looking at the module.
    """

    def register(function: F) -> F:
        known(kind)
        _ways[kind, method] = function, when
        return function

    return register


def dispatched(method: F) -> F:
    """Let a fast way stand in for a plain method where nothing touches the module; the decorated method is the plain one."""
    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        way = way_of(self, name)
        if way is not None:
            result = way(self, *args, **kwargs)
            if result is not NotImplemented:
                return result
        return method(self, *args, **kwargs)

    call.plain = method  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def way_of(module: Any, name: str) -> Callable[..., Any] | None:
    """Return the fast way of a module's method, or None where there is none or where the plain one must run."""
    if not _enabled:
        return None
    kind = type(module)
    page = PAGES.get(kind.__module__)
    if page is None:
        return None
    _load(page)
    found = _ways.get((kind, name))
    if found is None:
        return None
    way, when = found
    return way if (when is None or when()) and not _autocast() and untouched(module) else None


def _load(page: str) -> None:
    if page not in _pages:
        importlib.import_module(page)
        _pages.add(page)


_load._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as torch.compiler.assume_constant_result does, which loads dynamo


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def untouched(module: nn.Module) -> bool:
    """Return whether a module and all in it are of known types and as they were defined.

    No hooks (also none for all modules), no replaced forward, no compiled call, no parametrised, sharded or swapped parameter.
    """
    return not torch_module._has_any_global_hook() and _untouched(module)


def _untouched(module: nn.Module) -> bool:
    if not as_defined(module):
        return False
    for child in module._modules.values():  # noqa: SIM110  (a generator takes twice as long)
        if child is not None and not _untouched(child):
            return False
    return True


def as_defined(module: nn.Module) -> bool:
    """Return whether a module itself, whatever is in it, is of a known type and as it was defined."""
    kind, state = type(module), module.__dict__
    if kind not in _known or kind.forward is not _known[kind] or hooked(module) or "forward" in state or "inverse" in state:
        return False
    for one in state["_parameters"].values():  # noqa: SIM110
        if one is not None and type(one) is not nn.Parameter:
            return False
    return True


def hooked(module: nn.Module) -> bool:
    """Return whether a call of the module does more than its forward: hooks of any kind, or a compiled call."""
    state = module.__dict__
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or module._compiled_call_impl is not None
    )


def preparer(velocity: Any) -> Callable[..., Any] | None:
    """Return a function of (times) to the same velocity with what depends on parameters and times alone computed once, or None.

    It is for a solver that calls a velocity many times while its parameters stay; `times` may be None where they are not known.
    """
    way = way_of(velocity, "prepared")
    if way is not None:
        return functools.partial(way, velocity)
    own: Callable[..., Any] | None = None if isinstance(velocity, nn.Module) else getattr(velocity, "prepared", None)
    return own


def plainly_called(module: nn.Module, *methods: str) -> bool:
    """Return whether a call of the module, or of one of these methods, runs what its class defines and nothing else."""
    state = module.__dict__
    return not (hooked(module) or "forward" in state or any(name in state for name in methods) or torch_module._has_any_global_hook())


def ability(thing: Any, name: str, beside: tuple[str, ...] = ("forward", "__call__")) -> Callable[..., Any] | None:
    """Return an optional method of a network (see `types`), or None where it lacks it or where it would go round the network's call.

    It would where the network is hooked, where its `forward` was replaced, or where a subclass overrides `forward` (or `__call__`) but
    inherits the method, which then belongs to another function.
    """
    method = getattr(thing, name, None)
    if not callable(method):
        return None
    if isinstance(thing, nn.Module) and not plainly_called(thing):
        return None
    for kind in type(thing).__mro__:
        own = vars(kind)
        if name in own:
            return method
        if any(one in own for one in beside):
            return None
    return method  # an attribute of the instance
