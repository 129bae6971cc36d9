"""Programs of diffusion's samplers, kept from one sampling to the next: planning the steps takes as long as the steps.

A program is a function of sampler, path and ends. It is kept only where all of these are records that cannot change: frozen dataclasses of
numbers, strings, tuples and other such records. A path with parameters is planned anew each time, so that it is sampled as it is now.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from pushforward.dispatch import enabled

T = TypeVar("T")
MOST = 16  # programs kept; the oldest goes first
PLAIN = (int, float, bool, str, type(None))

_kept: dict[tuple[Any, ...], Any] = {}


def kept(make: Callable[..., T], *parts: Any) -> T:
    """Return make(*parts), and the same object again for equal parts, where none of them can change.

    Args:
        make: a function of its arguments alone.
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
        if len(_kept) >= MOST:
            _kept.pop(next(iter(_kept)), None)
        _kept[key] = made
    return made


def unchanging(thing: Any) -> bool:
    """Return whether a thing is a number, a string, a tuple of such, or a record of such whose very class is a frozen dataclass."""
    kind = type(thing)
    if kind in PLAIN:
        return True
    if kind is tuple:
        return all(unchanging(one) for one in thing)
    parameters = vars(kind).get("__dataclass_params__")
    if parameters is None or not parameters.frozen or isinstance(thing, nn.Module):
        return False
    return all(unchanging(getattr(thing, field.name)) for field in dataclasses.fields(thing))
