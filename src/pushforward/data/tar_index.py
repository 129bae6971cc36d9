"""The index of a tar shard in WebDataset's naming: where the members of each sample are. Nothing is unpacked to disk.

Members `KEY.EXTENSION` that follow each other and have the same key are a sample; the key ends at the first dot of the file's name.
"""

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from pushforward._checks import shown
from pushforward._files import MOST_LINES, json_of, text_of
from pushforward.data.shard_cache import Cache, replace_text
from pushforward.data.shard_files import Shard
from pushforward.errors import DamagedDataError, DataError

FORMAT = 1
IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm")
ARRAY, LABEL, CAPTION, JSON = "npy", "cls", "txt", "json"
PICKLES = ("pyd", "pickle", "pkl", "pth", "pt", "ckpt")
PACKED = ("gz", "tgz", "bz2", "xz", "zst")
MOST_TEXT = 1 << 20  # bytes of a label, caption or JSON, and of what states a long name
Places = dict[str, tuple[int, int]]  # of the members by extension: first byte, and number of bytes


@dataclass
class Samples:
    """The samples of one shard.

    Args:
        keys: the key of each.
        members: where its image and its array are.
        texts: its label and caption, by the name of the field: "cls", "txt" or "json.NAME".
    """

    keys: list[str] = field(default_factory=list)
    members: list[Places] = field(default_factory=list)
    texts: list[dict[str, str]] = field(default_factory=list)


class _Bounded(io.FileIO):
    """A file of which only little is read in one call: tarfile reads long names, whose stated size may be that of the file."""

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        Raises:
            DamagedDataError: they are more than a name or a text has.
        """
        if size is None or not 0 <= size <= MOST_TEXT:
            raise DamagedDataError(f"{self.name} states a name of {size} bytes; it is damaged: write it again.")
        return super().read(size) or b""


def indexed(shard: Shard, cache: Cache, fields: Sequence[str], ignored: Sequence[str]) -> Samples:
    """Return the samples of a shard: as an index in the cache states, or read, and then noted there.

    Args:
        shard: the shard.
        cache: where indices are kept.
        fields: which texts to read.
        ignored: extensions of members that are not read.

    Raises:
        DataError: see `scanned`.
    """
    path = cache.folder / "indices" / f"{shard.digest(FORMAT, sorted(fields), sorted(ignored))}.json"
    found = _read(path)
    if found is not None:
        return found

    def scan(local: Path) -> Samples:
        return scanned(local, shard, fields, ignored)

    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):  # it cannot be written, is full, or is of a file system without locks
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path.with_suffix(".lock")))  # one process of a machine reads the shard
        found = _read(path)
        if found is None:
            found = cache.read(shard, scan)
            with contextlib.suppress(OSError):  # an index that cannot be kept is made again
                replace_text(path, json.dumps([found.keys, found.members, found.texts], ensure_ascii=False))
    return found


def _read(path: Path) -> Samples | None:
    """Return a cached index, None if there is none or it is damaged."""
    try:
        keys, members, texts = json_of(text_of(path, DataError, MOST_LINES))
        places: list[Places] = [{one: (int(offset), int(size)) for one, (offset, size) in some.items()} for some in members]
        named = [{str(one): str(text) for one, text in some.items()} for some in texts]
        return Samples([str(key) for key in keys], places, named) if len(keys) == len(places) == len(named) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def scanned(path: Path, shard: Shard, fields: Sequence[str], ignored: Sequence[str] = ()) -> Samples:
    """Return the samples of a tar file, of which only headers and short texts are read.

    Args:
        path: the file.
        shard: what it is called in messages.
        fields: which texts to read.
        ignored: extensions of members that are not read.

    Raises:
        DataError: it is compressed, truncated or no tar file, or holds a link, a pipe, a pickle, an extension that is not known, or no
            samples; or a sample holds two images, or neither an image nor an array.
    """
    found, seen, last, end = Samples(), set[str](), None, 0
    with _Bounded(path) as file:
        for member in _members(file, shard):
            if member.offset_data < end or member.size < 0 or member.offset_data + member.size > shard.size:
                raise DamagedDataError(f"{shard.url} is truncated or damaged at {member.name!r}; write it again.")
            end = member.offset_data
            key, extension = _split(member.name)
            if member.isdir() or not key.rpartition("/")[2] or extension in ignored:
                continue
            _check_member(shard, member, extension)
            if key != last:
                if key in seen:
                    raise DataError(
                        f"{shard.url} holds members of {key!r} in two places, but those of a sample follow each other; write it sorted."
                    )
                _check_sample(shard, found)
                seen.add(key)
                last = key
                found.keys.append(key)
                found.members.append({})
                found.texts.append({})
            _add(shard, found, member, extension, fields, lambda one: _text(file, shard, one))
        _check_sample(shard, found)
    if not found.keys:
        raise DataError(f"{shard.url} holds no samples; their members are named KEY.EXTENSION, such as 000.jpg and 000.cls.")
    return found


def _members(file: _Bounded, shard: Shard) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all of them
                yield member
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != b"\0" * tarfile.BLOCKSIZE:  # tarfile also ends, silently, at a damaged header
                raise tarfile.ReadError(f"it does not end at byte {archive.offset} as one does")
    except DataError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, OSError, RecursionError, EOFError) as error:
        packed = next((f"; it is compressed: unpack .{one}" for one in PACKED if shard.url.endswith(f".{one}")), "")
        raise DamagedDataError(f"{shard.url} is no intact tar file ({str(error)[:200]}){packed or ': write it again'}.") from None


def _split(name: str) -> tuple[str, str]:
    """Return the key and the extension, in small letters, of a member."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _check_member(shard: Shard, member: tarfile.TarInfo, extension: str) -> None:
    where = f"{shard.url} holds {shown(member.name)}"
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
        raise DataError(f"{where}, which is a link, a pipe or another special file, but only regular files are read; leave it out.")
    if extension.rpartition(".")[2] in PICKLES:
        raise DataError(f"{where}, a pickle, which is never loaded, since it can run code; save arrays as .npy and texts as .txt or .json.")
    if extension not in (*IMAGES, ARRAY, LABEL, CAPTION, JSON):
        raise DataError(
            f"{where}, but the extensions that are read are {', '.join((*IMAGES, ARRAY, LABEL, CAPTION, JSON))}; leave others out with "
            f"ignore={extension!r}."
        )


def _check_sample(shard: Shard, found: Samples) -> None:
    if found.keys and not found.members[-1]:
        raise DataError(f"{shard.url}: the sample {found.keys[-1]!r} has neither an image nor an array (.npy); add one, or leave it out.")


def _add(
    shard: Shard, found: Samples, member: tarfile.TarInfo, extension: str, fields: Sequence[str], text_of: Callable[[tarfile.TarInfo], str]
) -> None:
    """Note a member of the last sample."""
    places, texts = found.members[-1], found.texts[-1]
    kind = "image" if extension in IMAGES else extension
    if kind in places or kind in texts:
        raise DataError(f"{shard.url}: the sample {found.keys[-1]!r} has two members for its {kind}; leave one out.")
    if kind in ("image", ARRAY):
        places[kind] = member.offset_data, member.size
    elif kind == JSON:
        named = [one.partition(".")[2] for one in fields if one.startswith(f"{JSON}.")]
        held = _json(shard, member, text_of(member)) if named else {}
        texts |= {f"{JSON}.{one}": str(held[one]).strip() for one in named if held.get(one) is not None}
    elif kind in fields:
        texts[kind] = text_of(member).strip()


def _text(file: _Bounded, shard: Shard, member: tarfile.TarInfo) -> str:
    if member.size > MOST_TEXT:
        raise DataError(f"{shard.url}: {member.name} has {member.size} bytes, but at most {MOST_TEXT} of a text are read; shorten it.")
    file.seek(member.offset_data)
    try:
        return file.read(member.size).decode("utf-8-sig")  # -sig: editors write a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"{shard.url}: {member.name} is not UTF-8 text (byte {error.start}); write it in UTF-8.") from None


def _json(shard: Shard, member: tarfile.TarInfo, text: str) -> dict[str, Any]:
    try:
        held = json_of(text)
    except ValueError as error:
        raise DataError(f"{shard.url}: {member.name} is no JSON ({error}); write it again.") from None
    if not isinstance(held, dict):
        raise DataError(f"{shard.url}: {member.name} is {shown(held)}, but must be an object of names and values.")
    return held
