"""Places in the source: which line of the user's code is running, found on the stack and turned into text only when it is printed."""

import ast
import functools
import itertools
import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType

import torch

Mark = tuple[tuple[CodeType, int], ...]  # (code, instruction) of the innermost line outside torch, and of the user's line that led to it

OWN = os.path.dirname(__file__)
FOLDERS = (os.path.dirname(torch.__file__), OWN, sysconfig.get_path("stdlib"))
INTERNAL = tuple(os.path.join(os.path.realpath(one), "") for one in FOLDERS)
GENERATED = ("<frozen ", "<@", "<pushforward")  # code without a file: the import system, wrappers of beartype, steps of ODE methods
BLOCK = re.compile(r"(async )?with\b")
INSTALLED = re.compile(r".*[/\\](?:site|dist)-packages[/\\](.*)")
OPTIMISERS = os.path.join(os.path.dirname(torch.__file__), "optim", "")


@dataclass(frozen=True)
class Place:
    """A line of code: its file, line, function and text, and `caller`, the user's own line where this one is in an installed package."""

    file: str
    line: int
    function: str = "<module>"
    text: str = ""
    caller: "Place | None" = None

    def __str__(self) -> str:
        function = "" if self.function == "<module>" else f" in {self.function}"
        own = self.where + function + (f": {self.text}" if self.text else "")
        return own if self.caller is None else f"{own}\n    called at {self.caller}"

    @property
    def where(self) -> str:
        """File and line: below the folder that packages are installed in, or below the working directory, else the full path."""
        installed = INSTALLED.match(self.file)
        roots = (os.getcwd(), os.path.dirname(os.path.dirname(OWN)))
        below = (os.path.relpath(self.file, one) for one in roots if self.file.startswith(os.path.join(one, "")))
        return f"{installed[1] if installed else next(below, self.file)}:{self.line}"

    def called(self) -> str:
        """Return the name of the function that the text calls, such as expand_as, or an empty string."""
        node = _expression(self.text)
        function = node.func if isinstance(node, ast.Call) else None
        return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


@functools.cache
def _kind(file: str) -> str:
    """Return "internal" for torch, this package and the standard library, "package" for what is installed, else "own"."""
    if INSTALLED.match(file):
        return "internal" if os.path.realpath(file).startswith(INTERNAL[:2]) else "package"
    if file.startswith(GENERATED) or os.path.realpath(file).startswith(INTERNAL):
        return "internal"
    return "own"


def here(thread: int | None = None) -> Mark:
    """Return the running line outside torch, and the user's line above it if that one is in an installed package.

    Args:
        thread: where to look if this thread runs no Python code of a user, as autograd's threads of an accelerator.

    Returns:
        The lines, innermost first; none if there is no such line.
    """
    found = _outside(sys._getframe(1))
    if not found and thread is not None:
        found = _outside(sys._current_frames().get(thread))
    return found


def _outside(frame: FrameType | None) -> Mark:
    inner: Mark = ()
    while frame is not None:
        kind = _kind(frame.f_code.co_filename)
        if kind == "own":
            return (*inner, (frame.f_code, frame.f_lasti))
        if kind == "package" and not inner:
            inner = ((frame.f_code, frame.f_lasti),)
        frame = frame.f_back
    return inner


def user_frames(thread: int | None = None) -> Iterator[FrameType]:
    """Yield the frames of the stack outside torch and the standard library, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    frames = list(filter(is_outside, _stack(frame)))
    if not frames and thread is not None:
        frames = list(filter(is_outside, _stack(sys._current_frames().get(thread))))
    yield from frames


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def in_optimiser() -> bool:
    """Return whether an optimiser's step is running."""
    return any(one.f_code.co_filename.startswith(OPTIMISERS) for one in _stack(sys._getframe(1)))


def place(mark: Mark) -> Place | None:
    """Return a mark as a place with its text."""
    found: Place | None = None
    for code, instruction in reversed(mark):
        found = _place(code.co_filename, code, instruction, found)
    return found


@functools.lru_cache(4096)
def _place(file: str, code: CodeType, instruction: int, caller: Place | None) -> Place:  # codes of different files can be equal
    line, end, start, stop = next(itertools.islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    first = line or code.co_firstlineno
    return Place(file, first, code.co_name, _text(file, first, end or first, start, stop), caller)


def is_outside(frame: FrameType) -> bool:
    """Return whether a frame runs code outside torch, the standard library and this folder."""
    return _kind(frame.f_code.co_filename) != "internal"


def _text(file: str, first: int, last: int, start: int | None, stop: int | None) -> str:
    """Return the expression at these lines and columns (of bytes), on one line.

    The lines in full where it is the target of `x[0] = y`, and the first one of a statement with a block.
    """
    full = lines = [linecache.getline(file, number) for number in range(first, last + 1)]
    if not all(lines):
        return ""
    if start is not None and stop is not None:
        lines = [*full[:-1], full[-1].encode()[:stop].decode(errors="ignore")]
        lines[0] = lines[0].encode()[start:].decode(errors="ignore")
    if BLOCK.match(lines[0]):
        return full[0].strip()
    text = re.sub(r"\s+", " ", " ".join(lines)).strip()
    expression = _expression(text)
    if sys.version_info >= (3, 13) and _opens(full[0].strip(), expression):
        return full[0].strip()
    return " ".join(map(str.strip, full)) if isinstance(expression, ast.Subscript) else text


def _opens(line: str, expression: ast.expr | None) -> bool:
    """Return whether a line is a `with` statement and the expression is a context manager of it, as Python 3.13 names it."""
    if expression is None or not BLOCK.match(line):
        return False
    try:
        (statement,) = ast.parse(f"{line}\n pass").body
    except (SyntaxError, ValueError):  # the block is on the same line, or the statement has more lines
        return False
    managers = [one.context_expr for one in statement.items] if isinstance(statement, ast.With | ast.AsyncWith) else []
    return ast.dump(expression) in map(ast.dump, managers)


def _expression(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return None
