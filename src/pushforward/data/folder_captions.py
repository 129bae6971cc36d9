"""The captions of a folder of images, and which of its images are left out."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pushforward._checks import whole
from pushforward._files import MOST_LINES, json_of, text_of
from pushforward._images import opened
from pushforward.errors import DataError, UserError

METADATA = ("metadata.csv", "metadata.jsonl")
MISSING = ("refuse", "drop")


@dataclass(frozen=True)
class Choice:
    """Which images of a folder to use: "drop" those without a caption or "refuse" the folder, and the pixels of the smallest side.

    Raises:
        UserError: an option is not allowed.
    """

    missing: str = "refuse"
    smallest: int | None = None

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise UserError(f"missing is {self.missing!r}, but of captions it is 'refuse' or 'drop', which leaves out images without one.")
        if self.smallest is not None:
            whole("smallest", self.smallest, 1, hint="None is images of any size")


def walk(folder: Path) -> Iterator[str]:
    """Yield the relative paths of all files in a folder except hidden ones, with slashes."""
    for place, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        inside = Path(place).relative_to(folder).as_posix()
        yield from (file if inside == "." else f"{inside}/{file}" for file in files if not file.startswith("."))


def chosen(folder: Path, files: Sequence[str], choice: Choice) -> tuple[list[str], list[str] | None, dict[str, list[str]]]:
    """Return the images to use, the caption of each (None if there are none), and the names of those left out, by reason.

    Raises:
        DataError: only some have a caption, and the choice is to refuse; or none is left.
    """
    known, source = _captions(folder, files)
    bare = [] if known is None else [file for file in files if not known.get(file)]
    if bare and choice.missing == "refuse":
        raise DataError(
            f"{folder / bare[0]} has no caption in {source}, nor have {len(bare) - 1} more of {len(files)} images; "
            "give every image a caption, or none, or leave these images out with missing='drop'."
        )
    small, damaged, without = [], [], set(bare)
    if choice.smallest is not None or choice.missing == "drop":
        for file in files:
            side = 0 if file in without else _side(folder / file)
            if side is None:
                damaged.append(file)
            elif file not in without and side < (choice.smallest or 1):
                small.append(file)
    gone = {*bare, *small, *damaged}
    kept = [file for file in files if file not in gone]
    if not kept:
        raise DataError(f"{folder}: none of its {len(files)} images is left: {len(bare)} have no caption, {len(small)} are too small.")
    left_out = {
        "without a caption": bare,
        f"smaller than {choice.smallest} pixels": small,
        "that cannot be opened": damaged,
    }
    return kept, None if known is None else [known[file] for file in kept], left_out


def _side(path: Path) -> int | None:
    """Return the shorter side of an image in pixels, from its header, or None if it cannot be opened."""
    try:
        with opened(path) as image:
            return min(image.size)
    except Exception:  # PIL raises many exception types for damaged files
        return None


def _captions(folder: Path, files: Sequence[str]) -> tuple[dict[str, str] | None, str]:
    """Return the captions by file, None if there are none, and where they are from."""
    table = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if table is not None:
        return _metadata(table) or None, str(table)
    texts = {file for file in walk(folder) if file.endswith(".txt")}
    sidecar = {file: f"{file.rpartition('.')[0]}.txt" for file in files}
    known = {file: _caption(folder / text) for file, text in sidecar.items() if text in texts}
    return known or None, "a .txt file next to it"


def _caption(path: Path) -> str:
    try:
        return text_of(path, DataError, encoding="utf-8-sig").strip()  # -sig: editors write a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); write the caption in UTF-8.") from None


def _metadata(path: Path) -> dict[str, str]:
    """Return the captions by file name of a metadata file; a file without the column text yields none."""
    try:
        text = text_of(path, DataError, MOST_LINES, encoding="utf-8-sig")
        lines = text.split("\n")  # not splitlines: a caption may hold other separators
        rows = list(csv.DictReader(io.StringIO(text))) if path.suffix == ".csv" else [json_of(line) for line in lines if line.strip()]
    except DataError:
        raise
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); write it in UTF-8 with the columns file_name and text.") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not row.get("file_name"):
            raise DataError(f"{path}: record {number} has no file_name for its caption; add it.")
    return {str(row["file_name"]).removeprefix("./"): str(row["text"]).strip() for row in rows if row.get("text")}
