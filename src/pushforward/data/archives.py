"""User arrays in .npz files: x and labels, with or without splits, and with the names of a table's columns and classes.

Pickled objects are never loaded, since a pickle can run code.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy
import torch

from pushforward.data.arrays import Array, as_events, number_labels, split_whole
from pushforward.data.checks import checked_cond
from pushforward.data.dataset import Dataset
from pushforward.data.numpy_files import opened_npz, read_member
from pushforward.data.raw import Names, Raw, names_of
from pushforward.data.splits import SPLITS
from pushforward.data.tabulate import tabulated
from pushforward.errors import DataError, UserError

NAMED, WORDS = ("x", "y", "columns", "class_names"), "words of "  # entries next to x: see `read_npz`


def read_npz(path: Path, split: str, seed: int, *, levels: int | None = None, given: Names = ()) -> Dataset:
    """Return one split of a .npz file with x and optional y, or with x_train, x_validation, x_test and optional y_train, ...

    y are labels (N,), or conditions: vectors (N, features) or images (N, channels, height, width), such as masks.

    Next to x, `columns` names the features of a table, "words of NAME" the values that the numbers of a category stand for, and
    `class_names` the classes: what `pushforward sample` writes is read again as the table that it is.

    Args:
        path: the file. Its entry `levels` is used if the argument is not given.
        split: "train", "validation" or "test"; of a seeded 80/10/10 permutation if the file only holds x.
        seed: seed of the permutation.
        levels: number of values a coordinate can take; 256 by default for uint8 images, which become (N, C, H, W).
        given: columns of a table that the others are conditional on; see `read_csv`.

    Raises:
        DataError: the file is truncated, pickled, or has other keys, or its content is invalid (see `Dataset`).
        UserError: columns are given of what is no table, or has conditions already.
    """
    with opened_npz(path) as archive:
        keys = list(archive.keys())
        if levels is None and "levels" in keys:
            levels = _scalar(path, read_member(path, archive, "levels"))
        if given not in ((), None) and not {"x", "columns"} <= set(keys):
            raise UserError(f"{path}: given is {given!r}, but columns have no names in it; add the entry columns, or leave given out.")
        if "x" in keys:
            held = {key: read_member(path, archive, key) for key in keys if key in NAMED or key.startswith(WORDS)}
            return split_whole(_whole(path.name, held, levels, seed, given), split, seed)
        missing = [f"x_{one}" for one in SPLITS if f"x_{one}" not in keys]
        missing += [f"y_{one}" for one in SPLITS if f"y_{one}" not in keys] if any(key.startswith("y_") for key in keys) else []
        if missing:
            raise DataError(
                f"{path} holds {', '.join(keys) or 'nothing'}, but needs x (and y), or x_train, x_validation and x_test (and y_...); "
                f"missing: {', '.join(missing)}."
            )
        labels = numpy.concatenate([read_member(path, archive, f"y_{one}") for one in SPLITS]) if "y_train" in keys else None
        arrays = [read_member(path, archive, f"x_{one}") for one in SPLITS]
    place = SPLITS.index(split)
    x, found_levels = as_events(path.name, arrays[place])
    cond, classes, class_names = number_labels(path.name, labels)
    if cond is not None:
        start = sum(len(one) for one in arrays[:place])
        cond = cond[start : start + len(x)]
    tensor = torch.from_numpy(x)
    return Dataset(path.name, tensor, cond, classes=classes, levels=levels or found_levels, class_names=class_names)


def _whole(name: str, held: Mapping[str, Array], levels: int | None, seed: int, given: Names) -> Dataset:
    """Return all examples of x and y, a table if the columns have names."""
    labels = held.get("y")
    classes = _texts(name, "class_names", held) if labels is not None else None
    if "columns" in held:
        return _table(name, held, classes, levels, seed, given)
    x, found_levels = as_events(name, held["x"])
    cond, count, words = number_labels(name, labels)
    levels = found_levels if levels is None else levels
    return Dataset(name, torch.from_numpy(x), cond, classes=len(classes or ()) or count, levels=levels, class_names=classes or words)


def _table(name: str, held: Mapping[str, Array], classes: list[str] | None, levels: int | None, seed: int, given: Names) -> Dataset:
    """Return x as the table that its names describe, with the columns' kinds and scales as those of a CSV file."""
    x, _ = as_events(name, held["x"])
    titles = _texts(name, "columns", held) or []
    if x.ndim != 2 or x.shape[1] != len(titles):
        raise DataError(f"{name}: columns has {len(titles)} names, but x has shape {x.shape}; give one name for each of its columns.")
    words = {title: _texts(name, WORDS + title, held) for title in titles}
    raws = [_raw(name, title, x[:, k].astype(numpy.float64), words[title]) for k, title in enumerate(titles)]
    label = None
    cond, _, found = number_labels(name, held.get("y"))
    cond, count = checked_cond(name, len(x), cond, None)
    if cond is not None and count is not None:
        label = next(title for title in ("label", "class", "label of the row") if title not in titles)
        raws.append(_raw(name, label, cond.double().numpy(), classes or found or [str(k) for k in range(count or 0)]))
    accepted, known = [title for title in titles if words[title]], names_of(name, "given", given, titles)
    if known and cond is not None:
        raise UserError(f"{name}: given is {known}, but it has conditions y already; leave one of them out.")
    table = tabulated(name, raws, label=label, given=known, accepted=accepted, levels=levels, seed=seed)
    return Dataset(name, table.x, table.cond if cond is None or count is not None else cond, schema=table.schema)


def _texts(name: str, key: str, held: Mapping[str, Array]) -> list[str] | None:
    """Return an entry that is a list of texts, None if there is none."""
    if key not in held:
        return None
    if held[key].ndim != 1 or held[key].dtype.kind != "U":
        raise DataError(f"{name}: {key} has shape {held[key].shape} and dtype {held[key].dtype}, but it must be a list of texts.")
    return list(map(str, held[key]))


def _raw(name: str, title: str, numbers: Array, words: list[str] | None) -> Raw:
    """Return a column of numbers, or of the words that these stand for."""
    if words is None:
        return Raw(title, numbers)
    wrong = numpy.flatnonzero(~numpy.isin(numbers, numpy.arange(len(words))))
    if len(wrong):
        raise DataError(
            f"{name}: row {wrong[0]} (counted from 0), column {title!r} is {numbers[wrong[0]]:g}, but its {len(words)} words are numbered "
            "from 0; correct it, or the words."
        )
    values = numpy.empty(len(numbers), dtype=object)
    values[:] = [words[int(one)] for one in numbers]
    return Raw(title, values, order=tuple(words))


def _scalar(path: Path, array: Array) -> int:
    if array.size != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{path}: levels has shape {array.shape} and dtype {array.dtype}, but must be one integer, such as 256.")
    return int(array.reshape(()))
