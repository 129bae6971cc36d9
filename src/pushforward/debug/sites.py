"""Where in the code, and in which module of a model, something happens: read from the frames of the running program."""

import functools
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

PACKAGE = Path(__file__).parents[1]
TORCH = str(Path(torch.__file__).parent) + "/"
OWN = str(Path(__file__).parent) + "/"
_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Site:
    """A line of code, printed as file:line, relative to the working directory or to this package."""

    file: str
    line: int

    def __str__(self) -> str:
        path = Path(self.file)
        for root in (Path.cwd(), PACKAGE.parent):
            if path.is_relative_to(root):
                return f"{path.relative_to(root)}:{self.line}"
        return f"{'/'.join(path.parts[-2:])}:{self.line}" if path.is_absolute() else f"{self.file}:{self.line}"


class Place(NamedTuple):
    """Where a call of torch is made."""

    site: Site | None  # the innermost line outside torch
    module: str  # dotted name of the innermost module whose method is running; "" is the model itself
    inside: bool  # whether an autograd.Function is running, whose caller `site` and `module` then state


def place(modules: Mapping[int, str], end: types.CodeType) -> Place:
    """Return where the current call of torch is made.

    Args:
        modules: the dotted names of a model's modules, by the id of the module.
        end: the code of the function at which the search ends; its callers are not looked at.

    Returns:
        The place; `inside` only looks at functions that were called by `end`.
    """
    frame: types.FrameType | None = sys._getframe(1)
    site, module, inside = None, None, False
    while frame is not None and frame.f_code is not end:
        code = frame.f_code
        if code is _APPLY:
            site, module, inside = None, None, True
        elif site is None and _is_outside(code.co_filename):
            site = Site(code.co_filename, frame.f_lineno)
        if module is None and _mentions_self(code):
            module = modules.get(id(frame.f_locals.get("self")))
        frame = frame.f_back
    return Place(site, module or "", inside)


def decorated(end: types.CodeType) -> Site | None:
    """Return where the function is defined that torch's context, such as `@torch.no_grad()`, decorates and is just entering for, if any."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not end and not _is_outside(frame.f_code.co_filename):
        function = frame.f_locals.get("func") if frame.f_code.co_name == "decorate_context" else None
        if isinstance(function, types.FunctionType):
            return Site(function.__code__.co_filename, function.__code__.co_firstlineno)
        frame = frame.f_back
    return None


@functools.lru_cache(4096)
def _is_outside(file: str) -> bool:
    """Return whether a file is neither torch's nor this folder's nor made by a decorator."""
    return not file.startswith((TORCH, OWN, "<@", "<frozen"))


@functools.lru_cache(4096)
def _mentions_self(code: types.CodeType) -> bool:
    return "self" in (*code.co_varnames[:1], *code.co_cellvars, *code.co_freevars)
