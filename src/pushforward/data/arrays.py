"""User arrays: those of .npy files, and what any array becomes: events, labels, splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
import torch

from pushforward.data.checks import is_numbers, refuse_masked
from pushforward.data.dataset import Dataset
from pushforward.data.numpy_files import open_npy
from pushforward.data.rounding import warn_of_rounded_rows
from pushforward.data.splits import split_indices, split_sizes
from pushforward.data.tabulate import Table
from pushforward.errors import DataError
from pushforward.functional.levels import Level

Array = numpy.ndarray
CHANNELS = (1, 3, 4)


def read_npy(path: Path, split: str, seed: int, *, levels: int | None = None) -> Dataset:
    """Return one split of a .npy file's array (N, *shape), without labels.

    Args:
        path: the file.
        split: "train", "validation" or "test" of a seeded 80/10/10 permutation.
        seed: seed of the permutation.
        levels: number of values a coordinate can take; 256 by default for uint8 images, which become (N, C, H, W).

    Raises:
        DataError: the file is truncated, not an array or pickled, or its content is invalid (see `Dataset`).
    """
    return divided(path.name, open_npy(path), None, split, seed, levels=levels)


def divided(
    name: str,
    array: Array,
    labels: Array | None,
    split: str,
    seed: int,
    *,
    levels: int | Sequence[Level] | None = None,
    class_names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    categories: Mapping[str, Sequence[str]] | None = None,
) -> Dataset:
    """Return one split of a seeded 80/10/10 permutation of the rows of an array, stratified when there are labels.

    The content is checked before splitting, so that error messages give the row of the file and not of the split.

    Args:
        name: name of the set.
        array: examples (N, *shape).
        labels: labels (N,), integers or strings, or conditions (N, features) or (N, channels, height, width), or None.
        split: "train", "validation" or "test".
        seed: seed of the permutation.
        levels: number of values a coordinate can take, or one entry per column; None for continuous data, 256 for uint8 images.
        class_names: names of the classes, if the labels are not strings.
        columns: names of the features of a table.
        categories: strings that the levels of categorical columns stand for.
    """
    x, found_levels = as_events(name, array)
    cond, classes, words = number_labels(name, labels)
    whole = Dataset(
        name,
        torch.from_numpy(x),
        cond,
        classes=classes,
        levels=found_levels if levels is None else levels,
        class_names=class_names or words,
        columns=columns,
        categories=categories,
    )
    return split_whole(whole, split, seed)


def split_of(name: str, table: Table, split: str, seed: int) -> Dataset:
    """Return one split of a table, as `divided` does of an array."""
    return split_whole(Dataset(name, table.x, table.cond, schema=table.schema), split, seed)


def split_whole(whole: Dataset, split: str, seed: int) -> Dataset:
    """Return one split of a seeded 80/10/10 permutation of a set, stratified when there are labels."""
    try:
        sizes = split_sizes(len(whole))
    except DataError as error:
        raise DataError(f"{whole.name}: {error}") from None
    return whole.subset(
        split_indices(split, sizes, seed, whole.cond.cpu().numpy() if whole.classes is not None and whole.cond is not None else None)
    )


def as_events(name: str, array: Array) -> tuple[Array, int | None]:
    """Return an array as float32 (N, *shape) and its levels; uint8 images stay uint8, with channels first.

    Args:
        name: name of the array in messages.
        array: (N, *shape), or (N,), which becomes (N, 1); uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) is an image with C in 1, 3, 4
            (if both axes could be the channels, the smaller one is used, and the second axis on a tie).

    Raises:
        DataError: the array does not hold real numbers, or is an image without 1, 3 or 4 channels.
    """
    refuse_masked(name, array)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name}: the array has dtype {array.dtype}, but must hold real numbers (integers or floats); convert it first.")
    levels = None
    if array.dtype == numpy.uint8 and array.ndim in (3, 4):
        levels = 256
        if array.ndim == 3:
            array = array[:, None]
        elif array.shape[3] in CHANNELS and (array.shape[1] not in CHANNELS or array.shape[3] < array.shape[1]):
            array = array.transpose(0, 3, 1, 2)
        elif array.shape[1] not in CHANNELS:
            raise DataError(
                f"{name}: an image array of shape {array.shape} has 1, 3 or 4 channels in neither its second nor its last axis; "
                "make it (N, C, H, W) or (N, H, W, C)."
            )
    warn_of_rounded_rows(name, array)
    with numpy.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, which Dataset reports with its row
        x = numpy.ascontiguousarray(array, dtype=numpy.uint8 if levels else numpy.float32)
    return (x[:, None] if x.ndim == 1 else x), levels


def number_labels(name: str, labels: Array | None) -> tuple[torch.Tensor | None, int | None, list[str] | None]:
    """Return labels as int64, the number of classes and the class names if the labels are strings (sorted, then numbered).

    Vectors (N, features) of real numbers and images (N, channels, height, width) are conditions as they are, without classes; uint8 images
    and masks may have their channels last, or none.
    """
    if labels is None:
        return None, None, None
    if labels.dtype.kind in "biuf" and is_numbers(labels):
        array, _ = as_events(name, labels.astype(numpy.uint8) if labels.dtype.kind == "b" else labels)
        return torch.from_numpy(array).to(torch.float32), None, None
    if labels.dtype.kind in "US":
        words, numbers = numpy.unique(labels, return_inverse=True)
        return torch.from_numpy(numbers.astype(numpy.int64)), len(words), [str(word) for word in words]
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: the labels have dtype {labels.dtype}, but classes must be integers from 0 or strings; convert them first."
        )
    cond = torch.from_numpy(labels.astype(numpy.int64))
    return cond, int(cond.max()) + 1 if cond.numel() and int(cond.max()) >= 0 else None, None
