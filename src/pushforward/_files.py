"""Files that others wrote: regular ones only, as a pipe or a device can be read without end; text of bounded size; JSON of any content."""

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pushforward.errors import PushforwardError

MOST_TEXT = 64 << 20  # bytes of a file of settings, names or one caption: a sparse file of terabytes takes no room on the disk
MOST_LINES = 1 << 30  # bytes of a file with a line for each step or image
MOST_LEVELS = 100  # of JSON: what is printed or compared later recurses, too
_KINDS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def regular(path: Path, error: type[PushforwardError]) -> Path:
    """Return a path, or raise if it is a pipe, a socket or a device. What is missing or a folder fails when it is opened.

    Raises:
        PushforwardError: of the given type.
    """
    try:
        kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except (OSError, ValueError):  # ValueError: of a name with a null character
        return path
    if kind is not None:
        raise error(f"{path} is a {kind}, but only regular files are read; write its content to a file.")
    return path


def is_file_name(name: str) -> bool:
    """Return whether a name that a file states can be that of a file in the same folder, and of nothing elsewhere."""
    return name not in ("", "..") and name == Path(name).name and "\0" not in name and len(name.encode("utf-8", "replace")) <= 255


def regular_folder(folder: Path, error: type[PushforwardError]) -> Path:
    """Return a folder that another library reads, or raise if it holds a pipe, a socket or a device.

    Raises:
        PushforwardError: of the given type.
    """
    for path in folder.rglob("*"):
        regular(path, error)
    return folder


def bytes_of(path: Path, error: type[PushforwardError], most: int = MOST_LINES) -> bytes:
    """Return the content of a file.

    Raises:
        PushforwardError: of the given type, if it is a pipe, a socket or a device, or has more bytes than `most`.
        OSError: it cannot be read.
    """
    with regular(path, error).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise error(f"{path} has {size} bytes, but at most {most} are read; give another file.")
        return file.read(size)


def text_of(path: Path, error: type[PushforwardError], most: int = MOST_TEXT, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Return the text of a file.

    Raises:
        PushforwardError: of the given type, if it is a pipe, a socket or a device, or has more bytes than `most`.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text in this encoding.
    """
    return bytes_of(path, error, most).decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")


def json_of(text: str, finite: bool = True) -> Any:
    """Return the value that is written as JSON.

    Args:
        text: the JSON.
        finite: whether NaN and infinite numbers, which Python writes and the standard does not know, are refused.

    Raises:
        ValueError: it is not JSON, is nested too deeply, states a key twice, a number that is not finite, or half of a character.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_mapping, parse_constant=_constant if finite else None, parse_float=_finite if finite else None
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count("[") + text.count("{") > MOST_LEVELS:
        _check_levels(value)
    if "\\ud" in text or "\\uD" in text:
        json.dumps(value, ensure_ascii=False).encode()  # raises for half of a surrogate pair, which no file and no terminal takes
    return value


def _mapping(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it states {twice[:100]!r} twice")
    return held


def _constant(text: str) -> float:
    raise ValueError(f"it holds {text}, which is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it holds {text[:20]}, which is no finite number")
    return value


def _check_levels(value: Any) -> None:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [one for held in level if isinstance(held, dict | list) for one in (held.values() if isinstance(held, dict) else held)]
    if level:
        raise ValueError(f"it has more than {MOST_LEVELS} levels")
