"""Image folders: classes from sub-folders, captions from files, splits from folders or from a seed.

The layout is that of Hugging Face's `imagefolder`, a superset of torchvision's `ImageFolder`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from pushforward._files import bytes_of
from pushforward.data.bucketed import bucket_sides
from pushforward.data.captioned import warn_left_out
from pushforward.data.folder_captions import Choice, chosen, walk
from pushforward.data.image_buckets import images_of
from pushforward.data.images import checked_image_options
from pushforward.data.lazy import LazyDataset
from pushforward.data.splits import split_named, split_within
from pushforward.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class FileSource:
    """Image files by their paths relative to a folder."""

    root: Path
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def open(self, row: int) -> Path:
        """Return the path of an image."""
        return self.root / self.files[row]

    def name(self, row: int) -> str:
        """Return the name of an image in messages."""
        return str(self.root / self.files[row])

    def signature(self, rows: Sequence[int]) -> bytes:
        """Return the names of all files, and the content of some."""
        held = [bytes_of(self.open(row), DataError) for row in rows]
        return "\n".join(self.files).encode() + b"".join(len(one).to_bytes(8, "little") + one for one in held)


def holds_images(path: Path) -> bool:
    """Return whether there is an image anywhere in a folder."""
    return any(file.lower().endswith(SUFFIXES) for file in walk(path))


def read_images(
    path: Path,
    split: str,
    seed: int,
    *,
    size: int | None = None,
    channels: int = 3,
    missing: str = "refuse",
    smallest: int | None = None,
    buckets: int | None = None,
) -> LazyDataset:
    """Return one split of a folder of images, which are decoded on access.

    Two or more sub-folders are the classes, sorted by name; images in the folder itself or in a single sub-folder have no labels. If the
    sub-folders are train and optionally validation (valid, val, dev) and test, these are the splits, and missing ones are each a seeded,
    stratified tenth of train. Captions are read from metadata.csv or metadata.jsonl (file_name, text) in the folder (of each split),
    or from a .txt file next to each image.

    Args:
        path: the folder.
        split: "train", "validation" or "test".
        seed: seed of the permutation.
        size: side length in pixels: the shorter side is resized to it, then the image is centre-cropped.
        channels: 3, or 1 for greyscale.
        missing: what to do if only some images have captions: "refuse", or "drop" the others, and also those that cannot be opened.
        smallest: leave out images with a shorter side of fewer pixels; None is any.
        buckets: keep aspect ratios from 1/4 to 4: sides are multiples of so many pixels, with about size^2 pixels in all; a batch has
            images of one height and width. None crops all to squares.

    Raises:
        DataError: there are no images, there are images next to class folders, or only some images have captions and `missing` is "refuse".
        UserError: the size is missing, or an option is not allowed.

    Warns:
        UserWarning: images were left out: how many, why, and the first.
    """
    size = checked_image_options(str(path), size, channels)
    choice = Choice(missing, smallest)
    if buckets is not None:
        bucket_sides(size, buckets)
    root = path.resolve()
    folders = _folders(root)
    given = {split_named(folder): folder for folder in folders}
    if None in given or "train" not in given:
        given = {"train": ""}
    files = {part: _files(root / folder) for part, folder in given.items() if part is not None}
    names = sorted({_class(file) for part in files.values() for file in part})
    number = {name: place for place, name in enumerate(names)}
    used = split if split in files else "train"
    total = len(files[used])
    files[used], captions, left_out = chosen(root / given[used], files[used], choice)
    warn_left_out(str(path), total, left_out)
    labels = {part: numpy.array([number[_class(file)] for file in found]) for part, found in files.items()} if len(names) > 1 else {}
    try:
        part, rows = split_within(split, {one: len(found) for one, found in files.items()}, seed, labels.get("train"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    here = root / given[part]
    return images_of(
        root.name,
        FileSource(here, tuple(files[part])),
        rows,
        size,
        channels,
        torch.from_numpy(labels[part])[rows] if labels else None,
        classes=len(names) if labels else None,
        buckets=buckets,
        class_names=names if labels else None,
        captions=None if captions is None else [captions[row] for row in rows.tolist()],
    )


def _folders(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def _class(file: str) -> str:
    return file.rpartition("/")[0].partition("/")[0]


def _files(folder: Path) -> list[str]:
    """Return the images of a folder and its sub-folders, sorted by path."""
    found = [file for file in walk(folder) if file.lower().endswith(SUFFIXES)]
    if not found:
        raise DataError(f"{folder} holds no images; they end in {', '.join(SUFFIXES)}.")
    loose = [file for file in found if "/" not in file]
    if loose and len(loose) < len(found):
        raise DataError(f"{folder} holds {len(loose)} images next to its class folders, such as {loose[0]}; move them to a class.")
    return sorted(found)
