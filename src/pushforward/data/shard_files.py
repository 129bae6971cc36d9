"""Files of a sharded set: which ones a name lists, and how their bytes are read, on this machine or behind an fsspec URL.

A shard of another machine is copied to a cache folder when its first example is needed, since a request for each example costs more than
its bytes; the copies that were not used for longest make room. Local files are read where they are.
"""

import contextlib
import glob
import hashlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from pushforward._files import regular
from pushforward.errors import DamagedDataError, DataError, UserError

T = TypeVar("T")
CACHE = "PUSHFORWARD_CACHE"  # the environment variable of the folder of indices and copies
MOST_SHARDS = 1_000_000
GB = 10**9
STAMPS = ("ETag", "etag", "checksum", "generation", "mtime", "LastModified", "last_modified", "updated", "created")
TRIES, WAIT = 3, 1.0  # of a copy, and seconds before the second one
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")


@dataclass(frozen=True)
class Shard:
    """A file of a set: its path or URL, its bytes, and what changes when it is written again."""

    url: str
    size: int
    stamp: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rstrip("/").rpartition("/")[2]

    def digest(self, *more: Any) -> str:
        """Return a name for what is cached of this shard."""
        return hashlib.sha256(repr((self.url, self.size, self.stamp, *more)).encode()).hexdigest()[:32]


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
            DataError: it cannot be copied, or there is no room for it.
        """
        if not is_remote(shard.url):
            return regular(Path(shard.url), DataError)
        path = self.folder / "copies" / shard.digest()
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):  # other processes of this machine wait for one copy
                if not path.is_file():
                    self._make_room(path.parent, shard)
                    _copy(shard, path)
        with contextlib.suppress(OSError):  # another process has just removed it: the caller's read fails, and is repeated
            os.utime(path)
        return path

    def read(self, shard: Shard, of: Callable[[Path], T]) -> T:
        """Return what a function reads from a shard; again, if another process removed the copy meanwhile."""
        for left in reversed(range(TRIES)):
            try:
                return of(self.local(shard))
            except FileNotFoundError:
                if not left or not is_remote(shard.url):
                    raise
        raise AssertionError

    def part(self, shard: Shard, offset: int, size: int) -> bytes:
        """Return some bytes of a shard, which is copied first if it is elsewhere.

        Raises:
            DamagedDataError: it has fewer bytes.
        """
        return self.read(shard, lambda path: _part(path, offset, size))

    def glimpse(self, shard: Shard, offset: int, size: int) -> bytes:
        """Return some bytes of a shard, without a copy of it."""
        if not is_remote(shard.url):
            return self.part(shard, offset, size)
        system, path = remote(shard.url)
        with reached(shard.url):
            found: bytes = system.cat_file(path, start=offset, end=offset + size)
        return found

    def _make_room(self, folder: Path, shard: Shard) -> None:
        held = []
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not path.suffix:
                    held.append((path.stat().st_mtime, path.stat().st_size, path))
        over = sum(size for _, size, _ in held) + shard.size - self.most
        for _, size, path in sorted(held):
            if over <= 0:
                break
            path.unlink(missing_ok=True)
            over -= size
        free = shutil.disk_usage(folder).free
        if shard.size > free:
            raise DataError(
                f"{shard.url} has {shard.size} bytes, but the cache {folder} has room for {free}; give a folder of another disk by the "
                f"option cache, or the environment variable {CACHE}."
            )


def cache_of(folder: str | None, most_gb: float) -> Cache:
    """Return the cache in a folder; by default that of the environment variable PUSHFORWARD_CACHE, or the user's."""
    if not most_gb > 0:
        raise UserError(f"cache_gb is {most_gb!r}, but it is the number of gigabytes of copies of shards, above 0; try cache_gb=100.")
    default = os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pushforward"
    return Cache(Path(folder or default).expanduser().resolve(), int(most_gb * GB))


def is_remote(url: str) -> bool:
    """Return whether a path is a URL of another file system than this machine's."""
    return bool(_PROTOCOL.match(url))


def shards_of(names: Sequence[str], suffix: str) -> list[Shard]:
    """Return the shards that paths and URLs list, in this order, those of a pattern sorted by name.

    Args:
        names: paths or URLs with braces, {000..127} or {a,b}, or glob patterns, or of folders.
        suffix: how the names of shards end, as those in a folder do.

    Raises:
        DataError: there is none, one is missing or listed twice, or one is no regular file.
    """
    urls = [url for name in names for one in expanded(name.removeprefix("file://")) for url in _found(one, suffix)]
    if not urls:
        raise DataError(f"the list of shards is empty; give at least one file that ends in {suffix}.")
    twice = next((url for place, url in enumerate(urls[1:]) if url == urls[place]), None) or (
        None if len(set(urls)) == len(urls) else next(url for url in urls if urls.count(url) > 1)
    )
    if twice is not None:
        raise DataError(f"the shard {twice} is listed twice, so its examples would be seen twice in an epoch; list it once.")
    return [_described(url) for url in urls]


def expanded(name: str) -> list[str]:
    """Return the names that one with braces stands for: {000..127} counts with leading zeros, {a,b} lists.

    Raises:
        DataError: there are more than a million.
    """
    parts, place, total = list[list[str]](), 0, 1
    for found in _BRACES.finditer(name):
        counted = _RANGE.fullmatch(found[1])
        if counted is None and "," not in found[1]:
            continue
        first, last = (int(one[:18]) for one in counted.groups()) if counted else (0, found[1].count(","))
        total *= max(0, last - first + 1)
        if total > MOST_SHARDS:
            raise DataError(f"{name} lists {total} shards, but at most {MOST_SHARDS} are read; check the braces.")
        width = len(counted[1]) if counted else 0
        choices = [f"{number:0{width}d}" for number in range(first, last + 1)] if counted else found[1].split(",")
        parts += [[name[place : found.start()]], choices]
        place = found.end()
    return ["".join(one) for one in itertools.product(*parts, [name[place:]])]


def _found(url: str, suffix: str) -> list[str]:
    """Return the files of a path or URL, a pattern or a folder."""
    if not is_remote(url):
        path = Path(url).expanduser()
        if path.exists():
            files = sorted(str(one) for one in path.iterdir() if one.name.endswith(suffix)) if path.is_dir() else [str(path)]
        elif glob.has_magic(url):
            files = sorted(glob.glob(str(path)))
        else:
            raise DataError(f"there is no shard {url}; check the path, and the numbers in its braces.")
        found = [str(Path(one).resolve()) for one in files]  # workers may start in another working directory
    else:
        system, path_there = remote(url)
        with reached(url):
            if not glob.has_magic(url):
                return [url]
            found = sorted(system.unstrip_protocol(one) for one in system.glob(path_there))
    if not found:
        raise DataError(f"{url} matches no file; shards end in {suffix}: check the pattern.")
    return found


def _described(url: str) -> Shard:
    if not is_remote(url):
        facts = regular(Path(url), DataError).stat()
        return Shard(url, facts.st_size, str(facts.st_mtime_ns))
    system, path = remote(url)
    with reached(url):
        info = system.info(path)
    size = info.get("size")
    if info.get("type") == "directory" or not isinstance(size, int):
        raise DataError(f"{url} is a folder, or its server states no size; give the URLs of files.")
    return Shard(url, size, repr([str(info[key]) for key in STAMPS if key in info]))


def remote(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it.

    Raises:
        UserError: fsspec, or the package for this protocol, is not installed, or nothing knows the protocol.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UserError(f"{url} needs the package fsspec; run pip install 'pushforward[shards]'.") from None
    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url} needs one more package ({_line(error)}).") from None
    except ValueError as error:
        raise UserError(f"{url} cannot be read ({_line(error)}); give a path, or a URL of a protocol that fsspec knows.") from None
    return system, str(path)


@contextlib.contextmanager
def reached(url: str) -> Any:
    """Context that converts errors of a file system, of which there are many types, to DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"there is no shard {url}; check the URL, and the numbers in its braces.") from None
    except (DataError, UserError):
        raise
    except Exception as error:
        raise DataError(f"{url} cannot be read ({_line(error)}); check the URL, the network and the access rights.") from None


def _copy(shard: Shard, path: Path) -> None:
    """Copy a shard to a file of this machine, written under another name and renamed."""
    temporary = path.with_suffix(f".{os.getpid()}")
    system, there = remote(shard.url)
    try:
        for left in reversed(range(TRIES)):
            try:
                with reached(shard.url):
                    system.get_file(there, str(temporary))
                break
            except DataError:
                if not left:
                    raise
                time.sleep(WAIT * (TRIES - left))
        if temporary.stat().st_size != shard.size:
            raise DamagedDataError(
                f"{shard.url} had {shard.size} bytes when the set was loaded, but {temporary.stat().st_size} were copied; load it again."
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _part(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:  # opened for each example, so that no position is shared with a forked worker
        file.seek(offset)
        found = file.read(size)
    if len(found) != size:
        raise DamagedDataError(f"{path} ends at byte {offset + len(found)}, before its member does; it was changed after it was loaded.")
    return found


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
