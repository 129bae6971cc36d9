"""Tar shards in WebDataset's naming as a data set: images with classes or captions, or arrays, each read where its shard holds it."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._checks import whole
from pushforward.data.arrays import as_events, number_labels
from pushforward.data.bucketed import bucket_sides
from pushforward.data.captioned import warn_left_out
from pushforward.data.checks import refuse_not_finite
from pushforward.data.folder_captions import Choice
from pushforward.data.image_buckets import images_of
from pushforward.data.images import checked_image_options
from pushforward.data.lazy import LazyDataset
from pushforward.data.numpy_files import array_of
from pushforward.data.shard_cache import Cache, cache_of
from pushforward.data.shard_files import Shard, shards_of
from pushforward.data.shuffled import by_shard
from pushforward.data.splits import split_within
from pushforward.data.tar_index import ARRAY, CAPTION, JSON, LABEL, Samples, indexed
from pushforward.errors import DamagedDataError, DataError, UserError

SHARDS, SUFFIX = "wds:", ".tar"
MOST_MEMBER = 1 << 30  # bytes of an image or array
AT_A_TIME = 8  # shards that are indexed together
WINDOW = 16  # shards that are mixed
Names = str | Sequence[str]


@dataclass(frozen=True)
class TarSource:
    """Members of shards by row, all of one kind: images, or arrays.

    Args:
        shards: the shards.
        cache: where copies of them are.
        keys: the key of each row.
        shard_of: number of each row's shard (N,).
        places: first byte and number of bytes of each row's member (N, 2).
        contents: a hash of the indices.
    """

    shards: tuple[Shard, ...]
    cache: Cache
    keys: tuple[str, ...]
    shard_of: Tensor
    places: Tensor
    contents: bytes

    def __len__(self) -> int:
        return len(self.keys)

    def open(self, row: int) -> io.BytesIO:
        """Return a member.

        Raises:
            DataError: it is too large, or its shard can no longer be read.
        """
        return io.BytesIO(self.cache.part(self.shards[int(self.shard_of[row])], *self._place(row)))

    def name(self, row: int) -> str:
        """Return the name of a member in messages."""
        return f"{self.keys[row]} in {self.shards[int(self.shard_of[row])].url}"

    def signature(self, rows: Sequence[int]) -> bytes:
        """Return the hash of the indices, and the content of some members: the same for copies of the shards in other places."""
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            held = list(pool.map(lambda row: self.cache.glimpse(self.shards[int(self.shard_of[row])], *self._place(row)), rows))
        return self.contents + b"".join(len(one).to_bytes(8, "little") + one for one in held)

    def _place(self, row: int) -> tuple[int, int]:
        offset, size = self.places[row].tolist()
        if size > MOST_MEMBER:
            raise DataError(f"it has {size} bytes, but at most {MOST_MEMBER} are read")
        return offset, size


class ShardArrays(LazyDataset):
    """Arrays of shards, such as cached embeddings."""

    source: TarSource

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.rows[places]
        arrays = [_array(self.source, row) for row in rows.tolist()]
        for row, one in zip(rows.tolist(), arrays, strict=True):
            if one.shape != self.shape:
                raise DataError(f"{self.source.name(row)} has shape {one.shape}, but the first array has {self.shape}; give all the same.")
        x = torch.from_numpy(numpy.stack(arrays))
        refuse_not_finite(self.name, x, rows)
        return x, places

    def _signature(self, places: Tensor) -> bytes:
        return self.source.signature(self.rows[places].tolist())


def is_list_of_shards(given: Any) -> bool:
    """Return whether something is a list of the names of shards."""
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(one, str | Path) for one in given)


def read_shards(
    name: str | Sequence[str],
    split: str,
    seed: int,
    *,
    size: int | None = None,
    channels: int = 3,
    label: str | None = None,
    caption: str | None = None,
    missing: str = "refuse",
    ignore: Names = (),
    buckets: int | None = None,
    validation: Names = (),
    test: Names = (),
    window: int = WINDOW,
    cache: str | None = None,
    cache_gb: float = 100,
) -> LazyDataset:
    """Return one split of tar shards in WebDataset's naming.

    Args:
        name: "wds:" and a path, a folder or an fsspec URL, with braces ({000..127}) or a glob pattern; or a list of these.
        split: "train", "validation" or "test"; missing splits are each a seeded tenth of train.
        seed: seed of the permutation.
        size: pixels of an image's side.
        channels: 3, or 1 for greyscale.
        label: what holds the class: "cls" by default, or "json.NAME".
        caption: what holds the caption: "txt" by default, or "json.NAME".
        missing: what to do if only some samples have a caption: "refuse", or "drop" the others.
        ignore: extensions of members that are not read.
        buckets: pixels of which sides are multiples, so that images keep their aspect ratios; see `read_images`.
        validation: the shards of the validation split, if it has its own.
        test: those of the test split.
        window: number of shards that are mixed: see `training.order`.
        cache: folder of indices, and of copies of shards that are elsewhere; by default that of PUSHFORWARD_CACHE, or the user's.
        cache_gb: gigabytes of copies.

    Raises:
        DataError: a shard is missing or malformed, or holds what is not read.
        UserError: an option is not allowed.
    """
    choice, held = Choice(missing), cache_of(cache, cache_gb)
    whole("window", window, 1, hint="it is the number of shards that are mixed")
    fields = tuple(_field(option, given, default) for option, given, default in (("label", label, LABEL), ("caption", caption, CAPTION)))
    if buckets is not None and size is not None:
        bucket_sides(size, buckets)
    ignored = sorted(one.lstrip(".").lower() for one in _list(ignore))
    given = {"train": _list(name), "validation": _list(validation), "test": _list(test)}
    if not all(one.removeprefix(SHARDS) for names in given.values() for one in names):
        raise UserError(f"{SHARDS} names no shard; give {SHARDS}FOLDER, {SHARDS}FOLDER/{{000..127}}{SUFFIX} or a URL.")
    parts = {part: shards_of([one.removeprefix(SHARDS) for one in names], SUFFIX) for part, names in given.items() if names}
    title = parts["train"][0].name if len(parts["train"]) == 1 else f"{len(parts['train'])} shards"
    with ThreadPoolExecutor(AT_A_TIME) as pool:  # of all parts, as their classes are numbered together
        found = {part: list(pool.map(lambda one: indexed(one, held, fields, ignored), shards)) for part, shards in parts.items()}
    labels, classes, class_names = _labels(title, parts, found, fields[0], required=label is not None)
    try:
        here, rows = split_within(
            split, {part: sum(len(one.keys) for one in some) for part, some in found.items()}, seed, labels.get("train")
        )
    except DataError as error:
        raise DataError(f"{title}: {error}") from None
    source, is_image = _source(parts[here], found[here], held)
    rows = by_shard(rows, source.shard_of, seed, window)
    cond = torch.from_numpy(labels[here])[rows] if labels else None
    if not is_image:
        if size is not None or buckets is not None:
            raise UserError(f"{title} holds arrays, which are not resized; leave the options size and buckets out.")
        made: LazyDataset = _arrays(title, source, rows, cond, classes, class_names)
    else:
        size = checked_image_options(title, size, channels)
        captions, kept = _captions(title, source, found[here], fields[1], rows, choice, required=caption is not None)
        cond = None if cond is None else cond[kept]
        made = images_of(
            title, source, rows[kept], size, channels, cond, buckets=buckets, classes=classes, class_names=class_names, captions=captions
        )
    made.window = window
    return made


def _list(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else [str(one) for one in names]


def _field(option: str, given: str | None, default: str) -> str:
    if given is not None and given != default and not (given.startswith(f"{JSON}.") and given.partition(".")[2]):
        raise UserError(
            f"{option} is {given!r}, but of shards it is {default!r}, or '{JSON}.NAME' for a value in the .json of each sample."
        )
    return given or default


def _texts(found: Iterable[Samples], field: str) -> list[str | None]:
    return [texts.get(field) or None for samples in found for texts in samples.texts]


def _named(shards: Sequence[Shard], found: Sequence[Samples], place: int) -> str:
    """Return the name of a sample by its place among all."""
    for shard, samples in zip(shards, found, strict=True):
        if place < len(samples.keys):
            return f"{samples.keys[place]} in {shard.url}"
        place -= len(samples.keys)
    raise AssertionError


def _labels(
    title: str, parts: dict[str, list[Shard]], found: dict[str, list[Samples]], field: str, required: bool
) -> tuple[dict[str, numpy.ndarray], int | None, Sequence[str] | None]:
    """Return the labels of each part with consistent numbering, the number of classes and their names.

    Raises:
        DataError: only some samples have a label.
    """
    texts = {part: _texts(some, field) for part, some in found.items()}
    everything = [text for part in texts.values() for text in part]
    if not any(everything) and not required:
        return {}, None, None
    for part, some in texts.items():
        if None in some:
            raise DataError(
                f"{_named(parts[part], found[part], some.index(None))} has no {field}, but others have; give all a label, or none."
            )
    numbers = numpy.array(everything)
    if all(str(text).isdecimal() and len(str(text)) < 10 for text in everything):
        numbers = numbers.astype(numpy.int64)
    numbered, classes, words = number_labels(title, numbers)
    assert numbered is not None
    ends = numpy.cumsum([len(texts[part]) for part in texts])[:-1]
    held = dict(zip(texts, numpy.split(numbered.numpy(), ends), strict=True))
    return held, classes if words is None else len(words), words


def _captions(
    title: str, source: TarSource, found: Sequence[Samples], field: str, rows: Tensor, choice: Choice, required: bool
) -> tuple[list[str] | None, Tensor]:
    """Return the captions of some rows, None if there are none, and the places of the rows that are used."""
    known = _texts(found, field)
    bare = [row for row in rows.tolist() if known[row] is None]
    if not any(known) and not required:
        return None, torch.arange(len(rows))
    if bare and choice.missing == "refuse":
        raise DataError(
            f"{source.name(bare[0])} has no {field}, nor have {len(bare) - 1} more of {len(rows)} images; leave them out with "
            "missing='drop', or give all a caption."
        )
    warn_left_out(title, len(rows), {"without a caption": [source.name(row) for row in bare]})
    kept = [place for place, row in enumerate(rows.tolist()) if known[row] is not None]
    return [str(known[row]) for row in rows[kept].tolist()], torch.tensor(kept, dtype=torch.int64)


def _source(shards: Sequence[Shard], found: Sequence[Samples], cache: Cache) -> tuple[TarSource, bool]:
    """Return the images of the samples, or else their arrays, and whether they are images.

    Raises:
        DataError: only some samples have an image.
    """
    kind = "image" if any("image" in members for samples in found for members in samples.members) else ARRAY
    digest, places = hashlib.sha256(), list[tuple[int, int]]()
    for shard, samples in zip(shards, found, strict=True):
        digest.update(repr((shard.name, shard.size, samples)).encode())
        for key, members in zip(samples.keys, samples.members, strict=True):
            if kind not in members:
                raise DataError(f"{key} in {shard.url} has no image, but others have; add one, or leave the sample out.")
            places.append(members[kind])
    counts = torch.tensor([len(samples.keys) for samples in found])
    numbers = torch.arange(len(shards)).repeat_interleave(counts)
    keys = tuple(key for samples in found for key in samples.keys)
    return TarSource(tuple(shards), cache, keys, numbers, torch.tensor(places), digest.digest()), kind == "image"


def _array(source: TarSource, row: int) -> numpy.ndarray:
    try:
        return as_events(source.name(row), array_of(source.name(row), source.open(row).getvalue())[None])[0][0]
    except DamagedDataError:
        raise
    except DataError as error:
        raise DamagedDataError(f"{source.name(row)} cannot be read: {error}") from None


def _arrays(
    title: str, source: TarSource, rows: Tensor, cond: Tensor | None, classes: int | None, class_names: Sequence[str] | None
) -> ShardArrays:
    first, levels = as_events(title, array_of(source.name(0), source.open(0).getvalue())[None])
    made = ShardArrays(title, rows, first.shape[1:], cond, classes=classes, levels=levels, class_names=class_names)
    made.source = source
    return made
