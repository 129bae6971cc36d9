"""Data sets of Hugging Face `datasets` (the extra `data`): by name, `hf:owner/name`, or a folder written by `save_to_disk`."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward._files import bytes_of, is_file_name, json_of, regular_folder, text_of
from pushforward.data.arrays import as_events, number_labels
from pushforward.data.captioned import warn_left_out
from pushforward.data.checks import refuse_not_finite
from pushforward.data.folder_captions import Choice
from pushforward.data.image_buckets import images_of
from pushforward.data.images import checked_image_options
from pushforward.data.lazy import LazyDataset
from pushforward.data.splits import split_named, split_within
from pushforward.errors import DamagedDataError, DataError, UserError
from pushforward.registry import unknown

HUB = "hf:"


@dataclass(frozen=True)
class HubImages:
    """The encoded images in a column of a table; with a folder, images that the table names by their paths must lie in it."""

    table: Any
    column: str
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.table)

    def open(self, row: int) -> Path | io.BytesIO:
        """Return an encoded image: its bytes, or the path in the table.

        Raises:
            DataError: the path is not in the folder.
        """
        encoded = self.table[row][self.column]
        if encoded["bytes"] is not None:
            return io.BytesIO(encoded["bytes"])
        path = Path(encoded["path"])
        if self.folder is not None and not path.resolve().is_relative_to(self.folder.resolve()):
            raise DataError(f"{self.folder} names the image {path}, which is not in it; save the set again, with the images in its table.")
        return path

    def name(self, row: int) -> str:
        """Return the name of an image in messages."""
        return f"{self.table[row][self.column]['path'] or 'image'} (row {row}, column {self.column!r})"

    def signature(self, rows: Sequence[int]) -> bytes:
        """Return the size of the table, and the content of some of its images."""
        held = [self.open(row) for row in rows]
        return repr(len(self)).encode() + b"".join(bytes_of(one, DataError) if isinstance(one, Path) else one.getvalue() for one in held)


class HubTable(LazyDataset):
    """Read the numeric columns of a batch of rows from a table."""

    table: Any
    numbers: Sequence[str]

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.rows[places]
        x = torch.from_numpy(_events(self.name, self.table[rows.tolist()], self.numbers))
        refuse_not_finite(self.name, x, rows)
        return x, places

    def _signature(self, places: Tensor) -> bytes:
        rows = self.table[self.rows[places].tolist()]
        about = repr((len(self.table), [str(self.table.features[one]) for one in self.numbers]))
        return hashlib.sha256((about + repr([rows[one] for one in self.numbers])).encode()).digest()


def read_hub(
    name: str,
    split: str,
    seed: int,
    *,
    image: str | None = None,
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    caption: str | None = None,
    size: int | None = None,
    channels: int = 3,
    missing: str = "refuse",
    buckets: int | None = None,
    config: str | None = None,
) -> LazyDataset:
    """Return one split of a set of the Hugging Face Hub, downloaded on first use.

    Args:
        name: "hf:" and the set's name there, such as "hf:ylecun/mnist".
        split: "train", "validation" or "test"; missing splits are each a seeded tenth of train.
        seed: seed of the permutation.
        image: column of images; by default the only one.
        columns: numeric columns to use instead of images, concatenated to one vector; a single column may hold arrays.
        label: column of classes; by default the only column of type ClassLabel.
        caption: column of captions; by default `text`, if there is one in addition to images.
        size: pixels of an image's side.
        channels: 3, or 1 for greyscale.
        missing: what to do if captions are missing or empty: "refuse" the set, or "drop" these images.
        buckets: pixels of which sides are multiples, so that images keep their aspect ratios; see `read_images`.
        config: configuration of the set, if it has several.
    """
    choice = Choice(missing)  # checked before anything is downloaded
    return _split(name, load_parts(name, config), split, seed, image, columns, label, caption, size, channels, choice, buckets)


def read_saved(
    path: Path,
    split: str,
    seed: int,
    *,
    image: str | None = None,
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    caption: str | None = None,
    size: int | None = None,
    channels: int = 3,
    missing: str = "refuse",
    buckets: int | None = None,
) -> LazyDataset:
    """Return one split of a folder that `datasets.Dataset.save_to_disk` (or of a DatasetDict) wrote; see `read_hub`."""
    choice, datasets = Choice(missing), _datasets(str(path))
    try:
        _check_names(regular_folder(path, DataError))
        found = datasets.load_from_disk(str(path))
    except DataError:
        raise
    except Exception as error:
        raise DamagedDataError(f"{path} cannot be read by datasets ({_first_line(error)}); save it again.") from None
    return _split(path.name, _parts(path.name, found), split, seed, image, columns, label, caption, size, channels, choice, buckets, path)


def _check_names(folder: Path) -> None:
    """Raise unless the tables and parts that a saved set names are in its folder.

    Raises:
        DataError: it names another place.
    """
    for path in (*folder.rglob("state.json"), *folder.rglob("dataset_dict.json")):
        held = json_of(text_of(path, DataError), finite=False)
        files = [one.get("filename") for one in held.get("_data_files") or ()]
        for name in (*files, *(held.get("splits") or ())):
            if not isinstance(name, str) or not is_file_name(name):
                raise DataError(f"{path} names {shown(name)}, which is not in this folder; save the set again.")


def load_parts(name: str, config: str | None = None) -> dict[str, Any]:
    """Return the tables of train and, if present, validation and test of a Hub data set, downloaded or from datasets' own cache."""
    datasets = _datasets(name)
    try:
        found = datasets.load_dataset(name.removeprefix(HUB), config)
    except Exception as error:  # network, access and format errors have different types
        raise DataError(
            f"{name} cannot be loaded ({_first_line(error)}); check its name and the network, or give a folder written by save_to_disk."
        ) from None
    return _parts(name, found)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _parts(name: str, found: Any) -> dict[str, Any]:
    named = dict(found) if isinstance(found, Mapping) else {"train": found}
    parts = {split: table for key, table in named.items() if (split := split_named(key))}
    if "train" in parts:
        return parts
    if len(named) == 1:
        return {"train": next(iter(named.values()))}
    raise DataError(
        f"{name} has the parts {', '.join(named)}, but one must be train; save the part you need with save_to_disk and load it."
    )


def _datasets(name: str) -> Any:
    try:
        import datasets  # importing it takes 1.5 s, which other data sets avoid
    except ImportError:
        raise UserError(f"{name} needs the package datasets; run pip install 'pushforward[data]'.") from None
    return datasets


def _split(
    name: str,
    parts: Mapping[str, Any],
    split: str,
    seed: int,
    image: str | None,
    columns: str | Sequence[str] | None,
    label: str | None,
    caption: str | None,
    size: int | None,
    channels: int,
    choice: Choice,
    buckets: int | None,
    folder: Path | None = None,
) -> LazyDataset:
    features = parts["train"].features
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    for option, column in (("image", image), ("label", label), ("caption", caption)):
        if column is not None and column not in kinds:
            raise UserError(f"{name}: {option}: {unknown('column', column, kinds)}")
    labels, classes, class_names = _labels(name, parts, label or _only(kinds, "ClassLabel"))
    here, rows = split_within(split, {one: len(table) for one, table in parts.items()}, seed, labels.get("train"))
    table, cond = parts[here], torch.from_numpy(labels[here])[rows] if labels else None
    if columns is not None:
        return _numbers(name, table, [columns] if isinstance(columns, str) else list(columns), rows, cond, classes, class_names)
    image = image or _only(kinds, "Image")
    if image is None:
        raise UserError(
            f"{name} has the columns {', '.join(kinds)}; select the image column with image=, or numeric columns with columns=."
        )
    size = checked_image_options(name, size, channels)
    caption = caption or ("text" if "text" in kinds else None)
    captions, kept = (None, torch.arange(len(rows))) if caption is None else _captions(name, table, caption, rows, choice)
    return images_of(
        name,
        HubImages(table.select_columns([image]).cast_column(image, _datasets(name).Image(decode=False)), image, folder),
        rows[kept],
        size,
        channels,
        None if cond is None else cond[kept],
        buckets=buckets,
        classes=classes,
        class_names=class_names,
        captions=captions,
    )


def _captions(name: str, table: Any, caption: str, rows: Tensor, choice: Choice) -> tuple[list[str] | None, Tensor]:
    """Return the captions of some rows, None if there are none, and the places of the rows that are used.

    Raises:
        DataError: only some rows have a caption, and the choice is to refuse.
    """
    texts = ["" if text is None else str(text).strip() for text in table.select_columns([caption])[rows.tolist()][caption]]
    bare = [f"row {row}" for row, text in zip(rows.tolist(), texts, strict=True) if not text]
    if len(bare) == len(texts):
        return None, torch.arange(len(rows))
    if bare and choice.missing == "refuse":
        raise DataError(
            f"{name}: {bare[0]} has no caption in the column {caption!r}, nor have {len(bare) - 1} more of {len(texts)} images; leave them "
            "out with missing='drop', or give another caption=."
        )
    warn_left_out(name, len(texts), {"without a caption": bare})
    kept = [place for place, text in enumerate(texts) if text]
    return [texts[place] for place in kept], torch.tensor(kept)


def _only(kinds: Mapping[str, str], kind: str) -> str | None:
    found = [column for column, one in kinds.items() if one == kind]
    return found[0] if len(found) == 1 else None


def _labels(name: str, parts: Mapping[str, Any], label: str | None) -> tuple[dict[str, numpy.ndarray], int | None, Sequence[str] | None]:
    """Return the labels of each part with consistent numbering, the number of classes and their names."""
    if label is None:
        return {}, None, None
    held = {part: numpy.asarray(table.select_columns([label])[:][label]) for part, table in parts.items()}
    numbered, classes, words = number_labels(name, numpy.concatenate(list(held.values())))
    names = getattr(parts["train"].features[label], "names", None) or words
    ends = numpy.cumsum([len(one) for one in held.values()])[:-1]
    assert numbered is not None
    split = numpy.split(numbered.numpy(), ends)
    return dict(zip(held, split, strict=True)), len(names) if names else classes, names


def _numbers(
    name: str, table: Any, columns: list[str], rows: Tensor, cond: Tensor | None, classes: int | None, class_names: Sequence[str] | None
) -> HubTable:
    for column in columns:
        if column not in table.features:
            raise UserError(f"{name}: columns: {unknown('column', column, table.features)}")
    table = table.select_columns(columns)
    shape = _events(name, table[:1], columns).shape[1:]
    names = columns if shape == (len(columns),) else None
    found = HubTable(name, rows, shape, cond, classes=classes, class_names=class_names, columns=names)
    found.table, found.numbers = table, columns
    return found


def _events(name: str, rows: Mapping[str, Any], columns: Sequence[str]) -> numpy.ndarray:
    """Return columns of numbers as float32 (n, features), or one column of arrays as (n, *shape)."""
    try:
        arrays = [numpy.asarray(rows[column], dtype=numpy.float64) for column in columns]
        joined = arrays[0] if len(arrays) == 1 else numpy.column_stack(arrays)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: the columns {', '.join(columns)} are not numeric arrays of one shape ({error}).") from None
    return as_events(name, joined)[0]
