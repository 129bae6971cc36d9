"""Files that others wrote: regular ones only, as a pipe or a device can be read without end; JSON of any content."""

import json
import stat
from pathlib import Path
from typing import Any

from pushforward.errors import PushforwardError

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
    return bool(name) and name == Path(name).name and "\0" not in name and len(name.encode("utf-8", "replace")) <= 255


def regular_folder(folder: Path, error: type[PushforwardError]) -> Path:
    """Return a folder that another library reads, or raise if it holds a pipe, a socket or a device.

    Raises:
        PushforwardError: of the given type.
    """
    for path in folder.rglob("*"):
        regular(path, error)
    return folder


def json_of(text: str) -> Any:
    """Return the value that is written as JSON.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
