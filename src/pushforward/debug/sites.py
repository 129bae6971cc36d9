"""Where in the code, and in which module of a model, a call of torch is made: read from the frames of the running program."""

import functools
import linecache
import sys
import types
from collections.abc import Mapping
from typing import NamedTuple

import torch

from pushforward.debug.places import Place, is_outside, place

_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


class Site(NamedTuple):
    """Where a call of torch is made."""

    place: Place | None  # the innermost line outside torch
    module: str  # dotted name of the innermost module whose method is running; "" is the model itself
    inside: bool  # whether an autograd.Function is running, whose caller `place` and `module` then state


def site(modules: Mapping[int, str], end: types.CodeType) -> Site:
    """Return where the current call of torch is made.

    Args:
        modules: the dotted names of a model's modules, by the id of the module.
        end: the code of the function at which the search ends; its callers are not looked at.

    Returns:
        The site; `inside` only looks at functions that were called by `end`.
    """
    frame: types.FrameType | None = sys._getframe(1)
    line, module, inside = None, None, False
    while frame is not None and frame.f_code is not end:
        code = frame.f_code
        if code is _APPLY:
            line, module, inside = None, None, True
        elif line is None and is_outside(frame):
            line = place(((code, frame.f_lasti),))
        if module is None and _mentions_self(code):
            module = modules.get(id(frame.f_locals.get("self")))
        frame = frame.f_back
    return Site(line, module or "", inside)


def decorated(end: types.CodeType) -> Place | None:
    """Return where the function is defined that torch's context, such as `@torch.no_grad()`, decorates and is just entering for, if any."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not end and not is_outside(frame):
        function = frame.f_locals.get("func") if frame.f_code.co_name == "decorate_context" else None
        if isinstance(function, types.FunctionType):
            code = function.__code__
            first = code.co_firstlineno  # of the decorator
            return Place(code.co_filename, first, code.co_name, linecache.getline(code.co_filename, first).strip())
        frame = frame.f_back
    return None


@functools.lru_cache(4096)
def _mentions_self(code: types.CodeType) -> bool:
    return "self" in (*code.co_varnames[:1], *code.co_cellvars, *code.co_freevars)
