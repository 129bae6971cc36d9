"""The files of a sharded set that a name lists, on this machine or behind URLs of fsspec."""

import contextlib
import glob
import hashlib
import itertools
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushforward._files import regular
from pushforward.errors import DataError, ShardError, UserError

MOST_SHARDS = 1_000_000
STAMPS = ("ETag", "etag", "checksum", "generation", "mtime", "LastModified", "last_modified", "updated", "created")
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
    urls = [url for name in names for one in _names(name.removeprefix("file://")) for url in _found(one, suffix)]
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


def _names(name: str) -> list[str]:
    return [name] if not is_remote(name) and _exists(Path(name).expanduser()) else expanded(name)  # a file's own name may have braces


def _exists(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # too long a name, or one with a null character
        return path.exists()
    return False


def _found(url: str, suffix: str) -> list[str]:
    """Return the files of a path or URL, a pattern or a folder."""
    if not is_remote(url):
        path = Path(url).expanduser()
        if _exists(path):
            files = sorted(str(one) for one in path.iterdir() if one.name.endswith(suffix)) if path.is_dir() else [str(path)]
        elif glob.has_magic(url):
            files = sorted(glob.glob(str(path)))
        else:
            raise DataError(f"there is no shard {url}; check the path, and the numbers in its braces.")
        found = [_local(Path(one)) for one in files]
    else:
        system, path_there = remote(url)
        with reached(url):
            if not glob.has_magic(url):
                return [url]
            found = sorted(system.unstrip_protocol(one) for one in system.glob(path_there))
    if not found:
        raise DataError(f"{url} matches no file; shards end in {suffix}: check the pattern.")
    return found


def _local(path: Path) -> str:
    """Return the absolute path of a file, as workers may start in another working directory.

    Raises:
        DataError: it is a folder, a pipe or a device, or a link to nothing.
    """
    try:
        kind = regular(path, DataError).stat().st_mode
    except OSError as error:
        raise DataError(f"the shard {path} cannot be read ({error.strerror}); restore it, or remove what links to it.") from None
    if stat.S_ISDIR(kind):
        raise DataError(f"the shard {path} is a folder; give the files in it, or {path}/* as the pattern.")
    return os.path.realpath(path)


def check_unchanged(shard: Shard, facts: os.stat_result) -> None:
    """Raise if a shard of this machine is no longer the file that was listed: what was found in it would be elsewhere.

    Raises:
        ShardError: its size or time differs.
    """
    if (facts.st_size, str(facts.st_mtime_ns)) != (shard.size, shard.stamp):
        raise ShardError(f"{shard.url} was written again after it was loaded; load it again, or continue a run by --resume.")


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
        raise ShardError(f"there is no shard {url}; check the URL, and the numbers in its braces.") from None
    except (DataError, UserError):
        raise
    except Exception as error:
        raise ShardError(f"{url} cannot be read ({_line(error)}); check the URL, the network and the access rights.") from None


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
