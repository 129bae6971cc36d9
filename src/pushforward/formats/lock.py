"""One process at a time writes into a run folder."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from pushforward._files import json_of, text_of
from pushforward.errors import RunExistsError
from pushforward.formats.files import write_text

LOCK, HOLDER = ".lock", ".lock.json"  # the lock itself, which the system releases when its process ends, and who holds it
PATIENCE = 5.0  # seconds: workers of a process that was killed keep its lock until they notice


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is created if it does not exist; a folder that cannot be written is not locked.

    Raises:
        RunExistsError: another process holds it, with its host, its number and since when in the message; or a file of the lock is a
            pipe, a folder or something else that is no file.
    """
    _check_files(run)
    lock = filelock.FileLock(run / LOCK, timeout=PATIENCE if (run / HOLDER).exists() else 0)
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        write_text(run / HOLDER, json.dumps(_facts()))  # in place of what is there, which is never opened: it may have become a pipe
    except filelock.Timeout:
        raise RunExistsError(f"{run} is being written by {_holder(run)}; wait until it ends, stop it, or give another folder.") from None
    except (OSError, NotImplementedError):
        pass  # the first checkpoint will report it, and save the state elsewhere
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                (run / HOLDER).unlink()
            lock.release()


def check_unlocked(run: Path) -> None:
    """Raise if another process writes into a run folder.

    Raises:
        RunExistsError: see `locked`.
    """
    _check_files(run)
    if run.is_dir() and (run / HOLDER).exists():
        with locked(run):
            pass


def _check_files(run: Path) -> None:
    """Raise unless the files of the lock are files or do not exist: opening a pipe would wait without end."""
    for path in (run / LOCK, run / HOLDER):
        if os.path.exists(path) and not os.path.isfile(path):
            raise RunExistsError(f"{path} is no file, but the lock by which one process at a time writes into a run is one; remove it.")


def _facts() -> dict[str, Any]:
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "since": since}


def _holder(run: Path) -> str:
    try:
        facts = json_of(text_of(run / HOLDER, RunExistsError))
        return f"process {facts['process']} on {facts['host']} since {facts['since']}"
    except (OSError, ValueError, KeyError, TypeError, RunExistsError):
        return "another process"
