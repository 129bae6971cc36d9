"""Atomic file writes: written to a temporary path, fsynced, renamed."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pushforward._files import is_file_name, json_of, text_of
from pushforward.errors import CheckpointError, UserError

MANIFEST = "manifest.json"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` on a temporary file, then rename it to `path`: a reader sees the old or the new file, never a partial one."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, but a file is written; give the name of a file, such as one in it.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_folder(folder: Path, fill: Callable[[Path], Any], manifest: bool = True) -> None:
    """Call `fill` on a temporary folder, add a manifest of sizes and digests if requested, then rename it to `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        with _system_errors(temporary):
            fill(temporary)
        if manifest:
            facts = {
                path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(temporary.iterdir()) if path.is_file()
            }
            (temporary / MANIFEST).write_text(json.dumps(facts, indent=1))
        for path in (*sorted(temporary.rglob("*")), temporary):
            _sync(path)
        _put_in_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(folder.parent)


def check_replaceable(folder: Path, names: Collection[str], mark: str) -> None:
    """Raise unless a folder may be written here: nothing is here, or an empty folder, or one that was written with these names.

    Args:
        folder: the path.
        names: names of the files and folders that a former one of its kind holds.
        mark: the one of them that it always holds.

    Raises:
        UserError: it is a file, or holds anything else, which replacing it would remove.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give the name of a folder.")
    held = sorted(one.name for one in folder.iterdir())
    others = [name for name in held if name not in names] or ([] if mark in held else held)
    if others:
        raise UserError(f"{folder} holds {others[0]}, which would be lost, so it is not replaced; give a new folder.")


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Convert operating-system errors back to OSError: torch and safetensors raise their own types for a full disk."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None and "PytorchStreamWriter" not in str(error):
            raise
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a folder over an existing one, which is not atomic: the old one is only removed once the new one is in place."""
    if not folder.exists():
        os.replace(temporary, folder)
        return
    former = temporary.with_suffix(".old")
    os.replace(folder, former)
    try:
        os.replace(temporary, folder)
    except BaseException:
        os.replace(former, folder)
        raise
    shutil.rmtree(former)


def check_folder(folder: Path) -> None:
    """Raise if the files of a folder do not match its manifest.

    Raises:
        CheckpointError: the manifest or a file is missing, truncated or modified; the message gives the file.
    """
    try:
        manifest = json_of(text_of(folder / MANIFEST, CheckpointError))
        if not all(map(is_file_name, manifest)):
            raise ValueError("a path elsewhere")
        expected = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise CheckpointError(f"{folder} has no readable {MANIFEST}, so it is not a complete checkpoint.") from None
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, so the checkpoint is not complete.")
        if path.stat().st_size != size:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, but {size} were written: it is truncated.")
        if _digest(path) != digest:
            raise CheckpointError(f"{path} was modified or damaged: its digest differs.")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
