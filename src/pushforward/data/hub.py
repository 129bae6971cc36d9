"""Data sets of Hugging Face `datasets` (the extra `data`): by name, `hf:owner/name`, or a folder written by `save_to_disk`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._checks import shown, whole
from pushforward._files import is_file_name, json_of, regular_folder, text_of
from pushforward.data.arrays import number_labels
from pushforward.data.captioned import warn_left_out
from pushforward.data.folder_captions import Choice
from pushforward.data.hub_rows import HubImages, numbers_of
from pushforward.data.image_buckets import images_of
from pushforward.data.images import checked_image_options
from pushforward.data.lazy import LazyDataset
from pushforward.data.parquet_rows import SUFFIX as PARQUET
from pushforward.data.parquet_rows import ParquetRows
from pushforward.data.shard_cache import Cache, cache_of
from pushforward.data.shard_files import is_remote, shards_of
from pushforward.data.shuffled import by_shard
from pushforward.data.splits import split_named, split_within
from pushforward.errors import DamagedDataError, DataError, UserError
from pushforward.registry import unknown

HUB = "hf:"
WINDOW = 16  # row groups that are mixed


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
    streaming: bool = False,
    window: int = WINDOW,
    cache: str | None = None,
    cache_gb: float = 100,
) -> LazyDataset:
    """Return one split of a set of the Hugging Face Hub, downloaded on first use, or streamed from its parquet files.

    Args:
        name: "hf:" and the set's name there, such as "hf:ylecun/mnist"; with `streaming` also the path of a folder, or paths or URLs of
            parquet files, with braces or a pattern.
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
        streaming: whether files are read when their rows are needed, in place of a download of all.
        window: number of row groups that are mixed, if it is streamed: see `training.order`.
        cache: folder of copies of files that are elsewhere, if it is streamed; by default that of PUSHFORWARD_CACHE, or the user's.
        cache_gb: gigabytes of copies.
    """
    choice, held = Choice(missing), cache_of(cache, cache_gb)  # checked before anything is downloaded
    whole("window", window, 1, hint="it is the number of row groups that are mixed")
    if streaming:
        parts, folder = streamed_parts(name, config, held, window)
        made = _split(name, parts, split, seed, image, columns, label, caption, size, channels, choice, buckets, folder)
        made.window = window
        return made
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


def streamed_parts(name: str, config: str | None, cache: Cache, window: int) -> tuple[dict[str, Any], Path]:
    """Return the tables of a set in parquet files, which are read row group by row group, and the folder that their images must lie in."""
    datasets, there = _datasets(name), name.removeprefix(HUB)
    if there.endswith(PARQUET):
        files: Mapping[str, Sequence[str]] = {"train": [there]}
    else:
        try:
            builder = datasets.load_dataset_builder(there, config)
            files = {str(split): [str(one) for one in some] for split, some in (builder.config.data_files or {}).items()}
        except Exception as error:  # as in `load_parts`
            raise DataError(f"{name} cannot be streamed ({_first_line(error)}); check its name and the network.") from None
    other = next((one for some in files.values() for one in some if not one.endswith(PARQUET)), None if files else "no files")
    if other is not None:
        raise DataError(
            f"{name} holds {other}, but only parquet files are streamed; leave streaming out, or give tar shards as wds:hf://datasets/..."
        )
    of = datasets.Features.from_arrow_schema
    tables = {split: ParquetRows(shards_of(some, PARQUET), cache, of, window) for split, some in files.items()}
    first = next(iter(tables.values())).shards[0].url
    return _parts(name, tables), cache.folder if is_remote(first) else Path(first).parent


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
        if column is not None and (not isinstance(column, str) or column not in kinds):
            raise UserError(f"{name}: {option}: {unknown('column', column if isinstance(column, str) else shown(column), kinds)}")
    chosen = [columns] if isinstance(columns, str) else columns
    if chosen is not None and (not isinstance(chosen, list | tuple) or not chosen or not all(isinstance(one, str) for one in chosen)):
        raise UserError(f"{name}: columns is {shown(columns)}, but it is the name of a column of numbers, or a list of them; leave it out.")
    labels, classes, class_names = _labels(name, parts, label or _only(kinds, "ClassLabel"))
    here, rows = split_within(split, {one: len(table) for one, table in parts.items()}, seed, labels.get("train"))
    table = parts[here]
    if isinstance(table, ParquetRows):
        rows = by_shard(rows, table.shard_of, seed, table.window)
    cond = torch.from_numpy(labels[here])[rows] if labels else None
    if chosen is not None:
        return numbers_of(name, table, list(chosen), rows, cond, classes, class_names)
    image = image or _only(kinds, "Image")
    if image is None:
        raise UserError(
            f"{name} has the columns {', '.join(kinds)}; select the image column with image=, or numeric columns with columns=."
        )
    if not _holds_images(features[image], isinstance(table, ParquetRows)):
        raise UserError(
            f"{name}: image is {image!r}, a column of type {kinds[image]} that holds no encoded images; give another one, or columns of "
            "numbers with columns=."
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


def _holds_images(feature: Any, as_stored: bool) -> bool:
    """Return whether a column may hold encoded images: of images, or of their bytes and paths; `datasets` also converts bare ones."""
    if isinstance(feature, Mapping):
        return {"bytes", "path"} <= set(feature)
    bare = not as_stored and getattr(feature, "dtype", "") in ("binary", "large_binary", "string", "large_string")
    return type(feature).__name__ == "Image" or bare


def _captions(name: str, table: Any, caption: str, rows: Tensor, choice: Choice) -> tuple[list[str] | None, Tensor]:
    """Return the captions of some rows, None if there are none, and the places of the rows that are used.

    Raises:
        DataError: only some rows have a caption, and the choice is to refuse.
    """
    held = table.select_columns([caption])[:][caption]
    chosen = [held[row] for row in rows.tolist()]
    texts = ["" if text is None else str(text).strip() for text in chosen]
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
