"""Rows of a table of `datasets`, or of parquet shards, as images and as numbers."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._files import bytes_of
from pushforward.data.arrays import as_events
from pushforward.data.checks import refuse_not_finite
from pushforward.data.lazy import LazyDataset
from pushforward.data.parquet_rows import ParquetRows
from pushforward.errors import DataError, UserError
from pushforward.registry import unknown


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
        encoded = self._encoded(row)
        if encoded["bytes"] is not None:
            return io.BytesIO(encoded["bytes"])
        if encoded["path"] is None:
            return io.BytesIO()  # which is no image, as that of a row without one
        path = Path(encoded["path"])
        if self.folder is not None and not path.resolve().is_relative_to(self.folder.resolve()):
            raise DataError(f"{self.folder} names the image {path}, which is not in it; save the set again, with the images in its table.")
        return path

    def _encoded(self, row: int) -> Mapping[str, Any]:
        held = self.table[row][self.column]
        return held if isinstance(held, Mapping) else {"bytes": None, "path": None}

    @property
    def shard_of(self) -> Tensor | None:
        """The number of each row's shard (N,), of a table in shards."""
        return _shard_of(self.table)

    def name(self, row: int) -> str:
        """Return the name of an image in messages."""
        return f"{self._encoded(row)['path'] or 'image'} (row {row}, column {self.column!r})"

    def signature(self, rows: Sequence[int]) -> bytes:
        """Return the size of the table, and the content of some of its images."""
        about = _about(self.table)
        if about is not None:
            return about
        held = [self.open(row) for row in rows]
        return repr(len(self)).encode() + b"".join(bytes_of(one, DataError) if isinstance(one, Path) else one.getvalue() for one in held)


class HubTable(LazyDataset):
    """Read the numeric columns of a batch of rows from a table."""

    table: Any
    numbers: Sequence[str]

    @property
    def shards(self) -> Tensor | None:  # type: ignore[override]
        """The number of the shard (N,) that holds each example, or None."""
        held = _shard_of(self.table)
        return None if held is None else held[self.rows]

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.rows[places]
        x = torch.from_numpy(events_of(self.name, self.table[rows.tolist()], self.numbers))
        refuse_not_finite(self.name, x, rows)
        return x, places

    def _signature(self, places: Tensor) -> bytes:
        about = _about(self.table)
        if about is not None:
            return about
        rows = self.table[self.rows[places].tolist()]
        described = repr((len(self.table), [str(self.table.features[one]) for one in self.numbers]))
        return hashlib.sha256((described + repr([rows[one] for one in self.numbers])).encode()).digest()


def _shard_of(table: Any) -> Tensor | None:
    """Return the number of each row's shard (N,) of a table in shards, None for one of `datasets`."""
    return table.shard_of if isinstance(table, ParquetRows) else None


def _about(table: Any) -> bytes | None:
    """Return what identifies a table in shards of another machine, None for one whose content is to be read."""
    about = table.about if isinstance(table, ParquetRows) else None
    return None if about is None else about.encode()


def numbers_of(
    name: str, table: Any, columns: list[str], rows: Tensor, cond: Tensor | None, classes: int | None, class_names: Sequence[str] | None
) -> HubTable:
    """Return the numeric columns of some rows of a table as a set.

    Raises:
        UserError: there is no such column.
    """
    for column in columns:
        if column not in table.features:
            raise UserError(f"{name}: columns: {unknown('column', column, table.features)}")
    table = table.select_columns(columns)
    shape = events_of(name, table[:1], columns).shape[1:]
    names = columns if shape == (len(columns),) else None
    found = HubTable(name, rows, shape, cond, classes=classes, class_names=class_names, columns=names)
    found.table, found.numbers = table, columns
    return found


def events_of(name: str, rows: Mapping[str, Any], columns: Sequence[str]) -> numpy.ndarray:
    """Return columns of numbers as float32 (n, features), or one column of arrays as (n, *shape)."""
    try:
        arrays = [numpy.asarray(rows[column], dtype=numpy.float64) for column in columns]
        joined = arrays[0] if len(arrays) == 1 else numpy.column_stack(arrays)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: the columns {', '.join(columns)} are not numeric arrays of one shape ({error}).") from None
    return as_events(name, joined)[0]
