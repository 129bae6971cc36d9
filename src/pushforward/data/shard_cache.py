"""How the bytes of shards are read: from local files where they are, from other machines by way of copies.

A shard of another machine is copied to a cache folder when its first example is needed, since a request for each example costs more than
its bytes; the copies that were not used for longest make room.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from pushforward._checks import shown
from pushforward._files import regular
from pushforward.data.shard_files import Shard, check_unchanged, is_remote, reached, remote
from pushforward.errors import DataError, ShardError, UserError

T = TypeVar("T")
CACHE = "PUSHFORWARD_CACHE"  # the environment variable of the folder of indices and copies
GB = 10**9
TRIES, WAIT = 3, 1.0  # of a copy, and seconds before the second one
READS = 50  # of a copy that others remove before it is opened: with room for fewer copies than readers, they take turns


@dataclass(frozen=True)
class Cache:
    """Where copies and indices are, and how many bytes of copies are kept.

    Args:
        folder: the folder.
        most: bytes of copies.
    """

    folder: Path
    most: int

    def local(self, shard: Shard) -> Path:
        """Return the path of a shard on this machine, where it is copied if it is not there yet.

        Raises:
            ShardError: it cannot be copied, or there is no room for it.
        """
        if not is_remote(shard.url):
            return regular(Path(shard.url), DataError)
        return self.kept(shard.digest(), shard.size, lambda temporary: _copy(shard, temporary))

    def kept(self, name: str, size: int, write: Callable[[Path], Any]) -> Path:
        """Return the path of a copy, which a function writes if it is not there yet; other processes of this machine wait for it.

        Args:
            name: name of the copy.
            size: its bytes, at most.
            write: is called with the path to write to.

        Raises:
            ShardError: there is no room for it.
        """
        path = self.folder / "copies" / name
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(path.with_suffix(".lock")):
                    if not path.is_file():
                        self._write(path, size, write)
            except (OSError, NotImplementedError) as error:  # NotImplementedError: of a file system without locks
                reason = getattr(error, "strerror", None) or error
                raise ShardError(
                    f"the cache {self.folder} cannot be written ({reason}); give another folder by the option cache, or the environment "
                    f"variable {CACHE}."
                ) from None
        with contextlib.suppress(OSError):  # another process has just removed it: the caller's read fails, and is repeated
            os.utime(path)
        return path

    def _write(self, path: Path, size: int, write: Callable[[Path], Any]) -> None:
        for left in path.parent.glob(f"{path.name}.*"):  # of a process that was killed
            if left.suffix != ".lock":
                left.unlink(missing_ok=True)
        self._make_room(path.parent, size)
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self._make_room(path.parent, 0, path)  # others were written meanwhile

    def read(self, shard: Shard, of: Callable[[Path], T]) -> T:
        """Return what a function reads from a shard."""
        return retried(lambda: of(self.local(shard)))

    def part(self, shard: Shard, offset: int, size: int) -> bytes:
        """Return some bytes of a shard, which is copied first if it is elsewhere.

        Raises:
            ShardError: it was written again, has fewer bytes, or cannot be read.
        """
        try:
            return self.read(shard, lambda path: _part(shard, path, offset, size))
        except OSError as error:
            raise ShardError(f"{shard.url} cannot be read ({error.strerror or error}); check the file and the disk.") from None

    def glimpse(self, shard: Shard, offset: int, size: int) -> bytes:
        """Return some bytes of a shard, without a copy of it."""
        if not is_remote(shard.url):
            return self.part(shard, offset, size)
        system, path = remote(shard.url)
        with reached(shard.url):
            found: bytes = system.cat_file(path, start=offset, end=offset + size)
        return found

    def _make_room(self, folder: Path, size: int, kept: Path | None = None) -> None:
        held = []
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not path.suffix:
                    held.append((path.stat().st_mtime, path.stat().st_size, path))
        over = sum(bytes_ for _, bytes_, _ in held) + size - self.most
        for _, freed, path in sorted(held):
            if over <= 0:
                break
            if path != kept:
                path.unlink(missing_ok=True)
                over -= freed
        free = shutil.disk_usage(folder).free
        if size > free:
            raise ShardError(
                f"a copy of {size} bytes is needed in {folder}, which has room for {free}; give a folder of another disk by the "
                f"option cache, or the environment variable {CACHE}."
            )


def cache_of(folder: str | None, most_gb: float) -> Cache:
    """Return the cache in a folder; by default that of the environment variable PUSHFORWARD_CACHE, or the user's."""
    if not most_gb > 0:
        raise UserError(f"cache_gb is {most_gb!r}, but it is the number of gigabytes of copies of shards, above 0; try cache_gb=100.")
    if folder is not None and (not isinstance(folder, str | Path) or "\0" in str(folder)):
        raise UserError(f"cache is {shown(folder)}, but it is the path of a folder for copies of shards; give one, or leave it out.")
    default = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pushforward"
    return Cache(Path(folder or default).expanduser().resolve(), int(most_gb * GB))


def replace_text(path: Path, text: str) -> None:
    """Write a text file under another name and rename it, so that no reader sees a part of it."""
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def retried(read: Callable[[], T]) -> T:
    """Return what a function reads; again, if another process removed the copy that it reads in that moment."""
    for left in reversed(range(READS)):
        try:
            return read()
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError


def _copy(shard: Shard, path: Path) -> None:
    """Copy a shard to a file of this machine."""
    system, there = remote(shard.url)
    for left in reversed(range(TRIES)):
        try:
            with reached(shard.url):
                system.get_file(there, str(path))
            break
        except DataError:
            if not left:
                raise
            time.sleep(WAIT * (TRIES - left))
    copied = path.stat().st_size
    if copied != shard.size:
        raise ShardError(f"{shard.url} had {shard.size} bytes when it was listed, but {copied} were copied; load it again.")


def _part(shard: Shard, path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:  # opened for each example, so that no position is shared with a forked worker
        if not is_remote(shard.url):
            check_unchanged(shard, os.fstat(file.fileno()))
        file.seek(offset)
        found = file.read(size)
    if len(found) != size:
        raise ShardError(f"{path} ends at byte {offset + len(found)}, before its member does; it was changed after it was loaded.")
    return found
