"""What a command prints: text for people, with --quiet its result alone, with --json one object for programs.

In both modes the text of a command does not reach stdout, whatever prints it. The command states its result by `result`.
"""

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FLAGS = {"--quiet": "quiet", "-q": "quiet", "--json": "json"}
HELP = {
    "--quiet": "print the result only, and on stderr errors only",
    "--json": "print the result as one JSON object; the text goes to stderr",
    "--debug": "print the full traceback of an error",
}


@dataclass
class _Printed:
    """How the command in progress prints, and its result so far."""

    mode: str = "text"
    brief: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)


_now = _Printed()


def is_quiet() -> bool:
    """Return whether only the result and errors are printed."""
    return _now.mode == "quiet"


def result(brief: object, /, **fields: Any) -> None:
    """State the result of the command in progress; fields that are stated again replace the former ones.

    Args:
        brief: what --quiet prints, such as the path of what was written; None for the command's own text.
        fields: what --json prints.
    """
    _now.brief = None if brief is None else str(brief)
    _now.fields.update(fields)


def run(mode: str, command: str, act: Callable[[], int]) -> int:
    """Run a command, print its result as `mode` ("text", "quiet" or "json") states, and return its exit status."""
    global _now
    before, _now = _now, _Printed(mode)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of Chinese fonts that have a single weight
    text = io.StringIO()
    try:
        with _redirected(mode, text):
            status = act()
        if mode == "json":
            print_object({"command": command, "exit_status": status, **_now.fields})
        elif mode == "quiet":
            print(text.getvalue() if _now.brief is None else f"{_now.brief}\n" * bool(_now.brief), end="")
        return status
    finally:
        _now = before


@contextlib.contextmanager
def _redirected(mode: str, text: io.StringIO) -> Iterator[None]:
    if mode == "text":
        yield
        return
    with contextlib.redirect_stdout(text if mode == "quiet" else sys.stderr):
        yield


def print_object(value: Mapping[str, Any]) -> None:
    """Print one line of JSON; of the processes of torchrun the first one prints it."""
    if os.environ.get("RANK", "0") == "0":
        in_ascii = (getattr(sys.stdout, "encoding", None) or "utf-8").lower() not in ("utf-8", "utf8")
        print(json.dumps(plain(value), ensure_ascii=in_ascii, allow_nan=False), flush=True)


def take_all_letters() -> None:
    """Let stdout replace what its encoding, or a file's name that is no UTF-8, does not have: as stderr does."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def close_stdout() -> None:
    """Print nothing more on stdout, which cannot be written: its reader closed it, or the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(value: Any) -> Any:
    """Return a value as JSON has it: records are mappings, numbers that are not finite are null, and all else is text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(one) for one in value]
    return str(value)
