"""Arrays larger than memory: a .npy file, or a folder with x.npy and optionally y.npy, of which only the rows of a batch are read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.data.arrays import as_events, number_labels
from pushforward.data.checks import is_numbers, refuse_not_finite, refuse_other_than_levels
from pushforward.data.lazy import LazyDataset
from pushforward.data.numpy_files import open_npy
from pushforward.data.splits import split_indices, split_sizes
from pushforward.errors import DataError


class MappedDataset(LazyDataset):
    """Read the rows of a batch from a .npy file: the map gives their offsets, pread reads them.

    Reading rows through the map also loads neighbouring pages: batches of 256 rows of 1 kB out of 1 GB took 320 MB, even with a new
    map for each batch. With pread they take none.
    """

    path: Path

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.rows[places]
        array = open_npy(self.path, mapped=True)
        if int(rows.max()) >= len(array):
            raise DataError(f"{self.path} has {len(array)} rows, but had at least {int(rows.max()) + 1} when it was opened: load it again.")
        x = torch.from_numpy(as_events(self.name, _rows(self.path, array, rows.tolist()))[0])
        refuse_not_finite(self.name, x, rows)
        refuse_other_than_levels(self.name, x, self.levels, rows)
        return x, places

    def _signature(self, places: Tensor) -> bytes:
        array = open_npy(self.path, mapped=True)
        about = repr((array.shape, array.dtype.str, self.path.stat().st_size))
        return about.encode() + _rows(self.path, array, self.rows[places].tolist()).tobytes()


def _rows(path: Path, array: Any, rows: Sequence[int]) -> numpy.ndarray:
    size = array[:1].nbytes
    with open(path, "rb", buffering=0) as file:
        content = b"".join([os.pread(file.fileno(), size, array.offset + row * size) for row in rows])
    return numpy.frombuffer(bytearray(content), dtype=array.dtype).reshape(-1, *array.shape[1:])


def read_mapped(path: Path, split: str, seed: int, *, levels: int | None = None) -> LazyDataset:
    """Return one split of a folder with x.npy (N, *shape) and optional labels or conditions y.npy, of which x stays on disk.

    Args:
        path: the folder, or a .npy file without labels.
        split: "train", "validation" or "test" of a seeded 80/10/10 permutation, stratified when there are labels.
        seed: seed of the permutation.
        levels: number of values a coordinate can take; 256 by default for uint8 images, which become (N, C, H, W).

    Raises:
        DataError: a file is truncated or pickled, the labels do not match, or (when a row is read) a value is NaN, infinite or not one of
            the levels: the message gives the row of the file.
    """
    file = path / "x.npy" if path.is_dir() else path
    array = open_npy(file, mapped=True)
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{file} has shape {array.shape} and contains no values; give at least one example with one value.")
    if not array.flags.c_contiguous:
        raise DataError(f"{file} is in Fortran order, in which rows are not contiguous; save numpy.ascontiguousarray of it.")
    first, found_levels = as_events(file.name, array[:1])
    labels_file = path / "y.npy"
    labels = open_npy(labels_file) if path.is_dir() and labels_file.is_file() else None
    cond, classes, class_names = number_labels(labels_file.name, labels)
    if cond is not None and (len(cond) != len(array) or (cond.ndim > 1 and not is_numbers(cond))):
        raise DataError(f"{labels_file} has labels of shape {tuple(cond.shape)}, but {len(array)} examples need shape ({len(array)},).")
    try:
        sizes = split_sizes(len(array))
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    rows = split_indices(split, sizes, seed, None if cond is None or is_numbers(cond) else cond.numpy())
    found = MappedDataset(
        path.resolve().name,
        rows,
        first.shape[1:],
        None if cond is None else cond[rows],
        classes=classes,
        levels=found_levels if levels is None else levels,
        class_names=class_names,
    )
    found.path = file.resolve()  # workers may start in another working directory
    return found
