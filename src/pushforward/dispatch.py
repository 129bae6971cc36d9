"""Dispatch to fast paths: one decorator, one check, one switch.

A plain method is marked `@dispatched`; a module of `fast/` registers a fast path for it with `@fast_way(kind, method)` for one exact type.
A fast path may read parameters instead of calling submodules, so it is used only if this makes no difference: the module and its
submodules are unmodified (`untouched`) and have the parts that it reads (`reads_parts`), and autocast is off. Otherwise, and under
`pushforward.fast.disabled()`, the plain method runs, and calls every submodule as PyTorch does.
"""

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from pushforward._unmodified import Methods
from pushforward.registry import export

F = TypeVar("F", bound=Callable[..., Any])

# Which module of `fast/` has the fast paths for the types defined in a module; imported when one of these types is first dispatched.
PAGES = {
    "pushforward.nn.mlp": "pushforward.fast.mlp",
    "pushforward.nn.made": "pushforward.fast.made",
    "pushforward.nn.coupling": "pushforward.fast.coupling",
    "pushforward.nn.conv": "pushforward.fast.conv",
    "pushforward.nn.causal": "pushforward.fast.causal",
    "pushforward.nn.mmdit": "pushforward.fast.mmdit",
    "pushforward.bijections.pixels": "pushforward.fast.pixels",
    "pushforward.bijections.chain": "pushforward.fast.chain",
}

Ways = dict[tuple[type, str], tuple[Callable[..., Any], Callable[[], bool] | None, bool]]
_ways: Ways = {}
_registered: dict[str, Ways] = {}  # by page, from which `_ways` takes them
_known: dict[type, Methods] = {}  # exact types whose methods a fast path may bypass, with these methods
_bases: dict[type, Methods] = {}  # types whose methods `inherits` asks for
_built: dict[type, Callable[[Any], bool]] = {}  # by type: whether a module has the parts that fast paths read of it
_pages: set[str] = set()
_looked_up: set[type] = set()  # types whose page is imported
PARAMETERS = (nn.Parameter, type(None))
_CALL = nn.Module._call_impl
_disabled = 0  # open blocks of `disabled`, in all threads
_lock = threading.Lock()


@export("fast.disabled")
@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Disable all fast paths inside a `with` block.

    Results agree with those of the fast paths up to rounding. Use it for comparisons, for debugging, and for changes that the fast paths
    cannot detect, such as a function replaced in a module of this library. They are disabled in all threads.

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
    global _disabled
    with _lock:
        _disabled += 1
    try:
        yield
    finally:
        with _lock:
            _disabled -= 1


def enabled() -> bool:
    """Return whether fast paths are enabled."""
    return not _disabled


def known(*kinds: type) -> None:
    """Register exact types whose methods fast paths bypass: they read a module's parameters instead, or a record's numbers."""
    for kind in kinds:
        if kind not in _known:
            _known[kind] = Methods(kind)


known(nn.Linear, nn.Conv2d, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.GELU, nn.SiLU, nn.Identity)
known(nn.Sequential, nn.ModuleList, nn.ModuleDict)


def reads_parts(kind: type[nn.Module], built: Callable[[Any], bool]) -> None:
    """Register what fast paths of a type presume of its parts, which users may replace by others of known types, such as a Sequential."""
    _built[kind] = built


def fast_way(kind: type[nn.Module], method: str, when: Callable[[], bool] | None = None, inside: bool = False) -> Callable[[F], F]:
    """Register a function as the fast path of a method, for instances of exactly this type; it is called like the method.

    If it returns NotImplemented, the plain method runs.

    Args:
        kind: the exact type.
        method: name of the plain method, or the name that callers pass to `way_of`.
        when: an additional requirement, such as `values_alone`: checked first, as it costs less than inspecting the module.
        inside: whether the method only runs inside the module's own call, which has run the module's hooks then; those of submodules count.
    """

    def register(function: F) -> F:
        known(kind)
        # Threads see the fast paths of a page when all of it is imported, so that the helpers that they call are defined.
        page = function.__module__
        ways = _registered.setdefault(page, {}) if page in PAGES.values() and page not in _pages else _ways
        ways[kind, method] = function, when, inside
        return function

    return register


def dispatched(method: F) -> F:
    """Decorate a plain method so that its fast path runs instead if the module is unmodified."""
    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        way = way_of(self, name)
        if way is not None:
            result = way(self, *args, **kwargs)
            if result is not NotImplemented:
                return result
        return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


def way_of(module: Any, name: str) -> Callable[..., Any] | None:
    """Return the fast path of a module's method, or None if there is none or the plain method must run."""
    if _disabled:
        return None
    kind = type(module)
    _import_page(kind)
    found = _ways.get((kind, name))
    if found is None:
        return None
    way, when, inside = found
    return way if (when is None or when()) and not _autocast() and untouched(module, inside) else None


def _import_page(kind: type) -> None:
    """Import the fast paths of a type when it is first dispatched."""
    if kind in _looked_up or (page := PAGES.get(kind.__module__)) is None:
        return
    if page not in _pages:
        importlib.import_module(page)
        with _lock:
            _ways.update(_registered.get(page, {}))
            _pages.add(page)
    _looked_up.add(kind)


# As torch.compiler.assume_constant_result, which imports dynamo: the tables change here, before the compiler guards what it reads of them.
_import_page._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


def unchanged(kind: type) -> bool:
    """Return whether a type is known, and none of its methods has been replaced on the class."""
    methods = _known.get(kind)
    return methods is not None and methods.kept_by(kind)


def inherits(thing: Any, base: type, *names: str) -> bool:
    """Return whether an object has methods of a base class as they were defined: overridden by no class, replaced on none and not on it."""
    state = thing.__dict__
    return not any(name in state for name in names) and _inherited(type(thing), base, names)


def _inherited(kind: type, base: type, names: tuple[str, ...]) -> bool:
    if base not in _bases:
        _bases[base] = Methods(base)
    return _bases[base].inherited_by(kind, names)


unchanged._dynamo_marked_constant = True  # type: ignore[attr-defined]
_inherited._dynamo_marked_constant = True  # type: ignore[attr-defined]


def untouched(module: nn.Module, inside: bool = False) -> bool:
    """Return whether a module and its submodules are of known types and unmodified, and have the parts that fast paths read.

    No hooks (also no global ones), no method replaced on an object or its class, no compiled call, no parametrised, sharded or swapped
    parameter. With `inside` the module's own hooks do not count, only those of its submodules.
    """
    if torch_module._has_any_global_hook() or nn.Module._call_impl is not _CALL:
        return False
    # One loop with few calls: it runs for every layer of a flow, whose kernels take microseconds.
    pending: list[Any] = [module]
    seen: dict[type, Any] = {}
    for one in pending:
        if one is None:
            continue
        kind, state = type(one), one.__dict__
        of_kind = seen.get(kind)
        if of_kind is None:
            if not unchanged(kind):
                return False
            of_kind = seen[kind] = _known[kind].besides_forward, _built.get(kind)
        others, built = of_kind
        if "forward" in state or (built is not None and not built(one)):
            return False
        for name in others:
            if name in state:
                return False
        if not inside and (
            state["_forward_hooks"]
            or state["_forward_pre_hooks"]
            or state["_backward_hooks"]
            or state["_backward_pre_hooks"]
            or "_compiled_call_impl" in state
        ):
            return False
        parameters, children = state["_parameters"], state["_modules"]
        if parameters:
            for parameter in parameters.values():
                if type(parameter) not in PARAMETERS:
                    return False
        if children:
            pending += children.values()
        inside = False
    return True


def as_defined(module: nn.Module) -> bool:
    """Return whether a module itself, regardless of its submodules, is of a known type and unmodified."""
    kind, state = type(module), module.__dict__
    if not unchanged(kind) or _known[kind].replaced_on(module) or hooked(module):
        return False
    return all(type(one) in PARAMETERS for one in state["_parameters"].values())


def hooked(module: nn.Module) -> bool:
    """Return whether a call of the module does more than its forward: hooks of any kind, or a compiled call."""
    state = module.__dict__
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "_compiled_call_impl" in state
    )


def preparer(velocity: Any) -> Callable[..., Any] | None:
    """Return a function of (times) that returns the velocity with terms precomputed that depend only on parameters and times, or None.

    It is for a solver that calls a velocity many times with fixed parameters; `times` is None if they are not known.
    """
    way = way_of(velocity, "prepared")
    if way is not None:
        return functools.partial(way, velocity)
    own: Callable[..., Any] | None = None if isinstance(velocity, nn.Module) else getattr(velocity, "prepared", None)
    return own


def plainly_called(module: nn.Module, *methods: str) -> bool:
    """Return whether a call of the module, or of one of these methods, runs only what its class defines."""
    state = module.__dict__
    for name in methods:
        if name in state:
            return False
    return not (hooked(module) or "forward" in state or torch_module._has_any_global_hook())


def ability(thing: Any, name: str, overrides: tuple[str, ...] = ("forward", "__call__")) -> Callable[..., Any] | None:
    """Return an optional method of a network (see `types`), or None if it lacks it or if it would bypass the network's call.

    It would if the network has hooks, if its `forward` was replaced, or if a subclass overrides `forward` (or `__call__`) but inherits the
    method, which then belongs to another function.
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
        if any(one in own for one in overrides):
            return None
    return method  # an attribute of the instance
