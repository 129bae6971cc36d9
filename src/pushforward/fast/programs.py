"""Cached step plans of the diffusion samplers: planning the steps takes as long as the steps themselves.

A program is a function of sampler, path and ends. It is cached only if all of these are immutable: frozen dataclasses of numbers, strings,
tuples and frozen dataclasses. A path with parameters is planned again each time, with its current parameters.
"""

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from pushforward.dispatch import enabled

T = TypeVar("T")
MOST = 16  # programs in the cache; the oldest is removed first
PLAIN = (int, float, bool, str, type(None))

_kept: dict[tuple[Any, ...], Any] = {}
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
    if found is not None:
        return found
    made = make(*parts)
    if all(unchanging(part) for part in parts):
        with _lock:  # while another thread adds a program, the oldest cannot be looked up
            if len(_kept) >= MOST:
                del _kept[next(iter(_kept))]
            _kept[key] = made
    return made


def unchanging(thing: Any) -> bool:
    """Return whether an object is a number, a string, or a tuple or frozen dataclass (its exact class) of such objects."""
    kind = type(thing)
    if kind in PLAIN:
        return True
    if kind is tuple:
        return all(unchanging(one) for one in thing)
    parameters = vars(kind).get("__dataclass_params__")
    if parameters is None or not parameters.frozen or isinstance(thing, nn.Module):
        return False
    return all(unchanging(getattr(thing, field.name)) for field in dataclasses.fields(thing))
