"""Image folders: classes from sub-folders, captions from files, splits from folders or from a seed.

The layout is that of Hugging Face's `imagefolder`, a superset of torchvision's `ImageFolder`.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from pushforward._files import json_of, regular
from pushforward.data.images import ImageDataset, checked_image_options
from pushforward.data.splits import split_named, split_within
from pushforward.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
METADATA = ("metadata.csv", "metadata.jsonl")


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
        held = [regular(self.open(row), DataError).read_bytes() for row in rows]
        return "\n".join(self.files).encode() + b"".join(len(one).to_bytes(8, "little") + one for one in held)


def holds_images(path: Path) -> bool:
    """Return whether there is an image anywhere in a folder."""
    return any(file.lower().endswith(SUFFIXES) for file in _walk(path))


def read_images(path: Path, split: str, seed: int, *, size: int | None = None, channels: int = 3) -> ImageDataset:
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

    Raises:
        DataError: there are no images, there are images next to class folders, or only some images have captions.
        UserError: the size is missing, or size or channels are not allowed.
    """
    size = checked_image_options(str(path), size, channels)
    root = path.resolve()
    folders = _folders(root)
    given = {split_named(folder): folder for folder in folders}
    if None in given or "train" not in given:
        given = {"train": ""}
    files = {part: _files(root / folder) for part, folder in given.items() if part is not None}
    names = sorted({_class(file) for part in files.values() for file in part})
    number = {name: place for place, name in enumerate(names)}
    labels = {part: numpy.array([number[_class(file)] for file in found]) for part, found in files.items()} if len(names) > 1 else {}
    try:
        part, rows = split_within(split, {one: len(found) for one, found in files.items()}, seed, labels.get("train"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    here = root / given[part]
    captions = _captions(here, files[part])
    return ImageDataset(
        root.name,
        FileSource(here, tuple(files[part])),
        rows,
        size,
        channels,
        torch.from_numpy(labels[part])[rows] if labels else None,
        classes=len(names) if labels else None,
        class_names=names if labels else None,
        captions=None if captions is None else [captions[row] for row in rows.tolist()],
    )


def _folders(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def _class(file: str) -> str:
    return file.rpartition("/")[0].partition("/")[0]


def _walk(folder: Path) -> Iterator[str]:
    """Yield the relative paths of all files in a folder except hidden ones, with slashes."""
    for place, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        inside = Path(place).relative_to(folder).as_posix()
        yield from (file if inside == "." else f"{inside}/{file}" for file in files if not file.startswith("."))


def _files(folder: Path) -> list[str]:
    """Return the images of a folder and its sub-folders, sorted by path."""
    found = [file for file in _walk(folder) if file.lower().endswith(SUFFIXES)]
    if not found:
        raise DataError(f"{folder} holds no images; they end in {', '.join(SUFFIXES)}.")
    loose = [file for file in found if "/" not in file]
    if loose and len(loose) < len(found):
        raise DataError(f"{folder} holds {len(loose)} images next to its class folders, such as {loose[0]}; move them to a class.")
    return sorted(found)


def _captions(folder: Path, files: Sequence[str]) -> list[str] | None:
    """Return the caption of each file, or None if there are none."""
    table = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if table is not None:
        known = _metadata(table)
        source = str(table)
    else:
        texts = {file for file in _walk(folder) if file.endswith(".txt")}
        sidecar = {file: f"{file.rpartition('.')[0]}.txt" for file in files}
        known = {file: _caption(folder / text) for file, text in sidecar.items() if text in texts}
        source = "a .txt file next to it"
    if not known:
        return None
    missing = [file for file in files if file not in known]
    if missing:
        raise DataError(
            f"{folder / missing[0]} has no caption in {source}, nor have {len(missing) - 1} more of {len(files)} images; "
            "give every image a caption, or none."
        )
    return [known[file] for file in files]


def _caption(path: Path) -> str:
    try:
        return regular(path, DataError).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); write the caption in UTF-8.") from None


def _metadata(path: Path) -> dict[str, str]:
    """Return the captions by file name of a metadata file; a file without the column text yields none."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file)) if path.suffix == ".csv" else [json_of(line) for line in file if line.strip()]
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); write it in UTF-8 with the columns file_name and text.") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.get("file_name"):
            raise DataError(f"{path}: record {number} has no file_name for its caption; add it.")
    return {str(row["file_name"]).removeprefix("./"): str(row["text"]).strip() for row in rows if row.get("text")}
