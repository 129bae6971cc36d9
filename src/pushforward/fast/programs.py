"""Cached step plans of the diffusion samplers: planning the steps takes as long as the steps themselves.

A program is a function of sampler, path and ends. It is cached only if all of these are immutable: frozen dataclasses of numbers, strings,
tuples and frozen dataclasses, whose classes have the methods that they were defined with. A path with parameters is planned again each
time, with its current parameters.
"""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from pushforward._unmodified import Methods
from pushforward.dispatch import enabled

T = TypeVar("T")
MOST = 16  # programs in the cache; the oldest is removed first
PLAIN = (int, float, bool, str, type(None))

_kept: dict[tuple[Any, ...], tuple[Any, dict[type, Methods]]] = {}
_lock = threading.Lock()


def kept(make: Callable[..., T], *parts: Any) -> T:
    """Return make(*parts), cached for equal parts if all of them are immutable.

    Args:
        make: a pure function.
        parts: sampler, path, t_start and t_end.
    """
    if not enabled():
        return make(*parts)
    key = (make, *parts)
    try:
        found = _kept.get(key)
    except TypeError:  # not hashable
        return make(*parts)
    made: T
    if found is not None:
        made, kinds = found
        if all(methods.kept_by(kind) for kind, methods in kinds.items()):
            return made
    made, kinds = make(*parts), {}
    if all(unchanging(part, kinds) for part in parts) and all(methods.kept_by(kind) for kind, methods in kinds.items()):
        with _lock:  # while another thread adds a program, the oldest cannot be looked up
            if len(_kept) >= MOST:
                del _kept[next(iter(_kept))]
            _kept[key] = made, kinds
    return made


def unchanging(thing: Any, kinds: dict[type, Methods]) -> bool:
    """Return whether an object is a number, a string, or a tuple or frozen dataclass (its exact class) of such objects.

    The methods of these classes are added to `kinds`.
    """
    kind = type(thing)
    if kind in PLAIN:
        return True
    if kind is tuple:
        return all(unchanging(one, kinds) for one in thing)
    parameters = vars(kind).get("__dataclass_params__")
    if parameters is None or not parameters.frozen or isinstance(thing, nn.Module):
        return False
    if kind not in kinds:
        kinds[kind] = Methods(kind)
    return all(unchanging(getattr(thing, field.name), kinds) for field in dataclasses.fields(thing))
