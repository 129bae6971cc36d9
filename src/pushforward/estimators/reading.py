"""Tables as estimators read them: arrays and DataFrames to the numbers of a model, and samples to rows like those that were read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._pandas import pandas_for
from pushforward.column import Column
from pushforward.data.inference import gain, numeric
from pushforward.data.raw import LARGEST, Raw
from pushforward.data.tabulate import Missing, by_schema, tabulated
from pushforward.errors import DataError
from pushforward.schema import Schema

DRAWS = 8  # points of a cell, or stand-ins of a missing value, over which a log-density is averaged
GAIN = 0.05  # nats by which a scale with bounds must fit better: it leaves no density beyond them


def row(k: int) -> str:
    """Return what messages call a row."""
    return f"row {k} (counted from 0)"


def shuffled(rows: numpy.ndarray, seed: int) -> list[int]:
    """Return the numbers of these rows in random order: parts of them are used by their place."""
    found: list[int] = numpy.random.RandomState(seed).permutation(numpy.flatnonzero(rows)).tolist()
    return found


@dataclass(frozen=True)
class Reader:
    """The features of a table, fitted to its rows.

    A model sees float32, so columns that are real numbers in their own units are standardised here in float64: seconds since 1970 keep
    their digits. Each log-density is a mean over draws that are the same for all rows, so that it depends on its row alone.

    Attributes:
        schema: the columns in the units of the table.
        centre: what is subtracted from each column (d,).
        scale: what each is then divided by (d,).
        cells: 1 for a column of unit cells, 0 for others (d,).
        points: where in their cells values are put (draws, d), in [0, 1).
        fillers: what takes the place of missing values (draws, d), in the units of the table.
    """

    schema: Schema
    centre: numpy.ndarray
    scale: numpy.ndarray
    cells: numpy.ndarray
    points: numpy.ndarray
    fillers: numpy.ndarray

    @classmethod
    def fitted(
        cls,
        raws: Sequence[Raw],
        *,
        accepted: Sequence[str] = (),
        missing: Missing = "refuse",
        scales: Mapping[str, str] | None = None,
        dequantise: bool = True,
        seed: int = 0,
    ) -> tuple["Reader", Tensor]:
        """Return a reader of these columns, and their rows (n, d) for training, in the model's units; missing values are filled in."""
        table = tabulated("X", raws, accepted=accepted, missing=missing, scales=scales, seed=seed)
        given = set(scales or ())
        columns = tuple(
            one if one.title in given and dequantise else _chosen(one, table.x[:, k], dequantise, (scales or {}).get(one.title))
            for k, one in enumerate(table.schema.columns)
        )
        real = numpy.array([one.scale == "none" and one.levels is None for one in columns])
        deviation = table.x.std(0)
        centre, scale = numpy.where(real, table.x.mean(0), 0.0), numpy.where(real & (deviation > 0), deviation, 1.0)
        cells = numpy.array([float(one.levels is not None) for one in columns])
        random = numpy.random.RandomState(seed)
        marked = [one.of for one in columns if one.kind == "missing"]
        draws = DRAWS if cells.any() or marked else 1
        strata = numpy.array([random.permutation(draws) for _ in columns]).T.reshape(draws, len(columns))
        points = (strata + random.uniform(size=strata.shape)) / draws
        fillers = table.x[random.randint(len(table.x), size=draws)]
        reader = cls(Schema(columns), centre, scale, cells, points, fillers)
        return reader, reader.in_model(table.x)

    @property
    def model_schema(self) -> Schema:
        """The columns in the units that a model sees."""
        bare: dict[str, Any] = {"kind": "continuous", "low": None, "high": None, "lower": None, "upper": None}
        real = [one.scale == "none" and one.levels is None for one in self.schema.columns]
        return Schema(tuple(replace(one, **bare) if r else one for one, r in zip(self.schema.columns, real, strict=True)))

    @property
    def log_volume(self) -> float:
        """What is subtracted from a log-density in the model's units for one in the table's."""
        return float(numpy.log(self.scale).sum())

    def read(self, raws: Sequence[Raw]) -> numpy.ndarray:
        """Return rows (n, d) in the units of the table, NaN where a value is missing.

        A number that is no integer in a column that held integers is read as it is: its cell is the unit interval from there on.

        Raises:
            DataError: a word is unknown, or a value infinite, or missing without being modelled.
        """
        table = by_schema("X", raws, self.schema, row)
        x, known = table.x, {one.title: one for one in raws}
        marked = {one.of for one in self.schema.columns if one.kind == "missing"}
        for k, one in enumerate(self.schema.columns):
            wrong = numpy.abs(x[:, k]) > LARGEST
            if wrong.any():
                first = int(wrong.argmax())
                what = "infinite" if numpy.isinf(x[first, k]) else f"{x[first, k]:g}, beyond the range of float32"
                raise DataError(f"X: column {one.title!r} is {what} in {row(first)}; replace it.")
            gaps = known[one.title].missing if one.title in marked and one.kind != "missing" else numpy.zeros(len(x), dtype=bool)
            x[gaps, k] = numpy.nan
        return x

    def filled(self, raws: Sequence[Raw], seed: int) -> Tensor:
        """Return rows (n, d) for training in the model's units, missing values filled in with random ones of other rows."""
        x, random = self.read(raws), numpy.random.RandomState(seed)
        for k in range(x.shape[1]):
            gaps = numpy.isnan(x[:, k])
            if gaps.any():
                x[gaps, k] = random.choice(self.fillers[:, k] if gaps.all() else x[~gaps, k], int(gaps.sum()))
        return self.in_model(x)

    def draws(self, x: numpy.ndarray) -> Iterator[Tensor]:
        """Yield rows in the model's units (n, d), once for each draw: within their cells, and with stand-ins for missing values."""
        for points, fillers in zip(self.points, self.fillers, strict=True):
            yield self.in_model(numpy.where(numpy.isnan(x), fillers, x) + points * self.cells)

    def spread(self, z: Tensor) -> Iterator[Tensor]:
        """Yield rows (n, d) in the model's units without missing values, once for each draw within their cells."""
        for points in self.points:
            yield z + torch.from_numpy(points * self.cells)

    def in_model(self, x: numpy.ndarray) -> Tensor:
        """Return rows (n, d) in the units of the table in the model's."""
        return torch.from_numpy((x - self.centre) / self.scale)

    def in_table(self, z: Tensor) -> Tensor:
        """Return rows (n, d) in the model's units in those of the table, in float64 on the CPU: the inverse of `in_model`."""
        return torch.from_numpy(z.double().cpu().numpy() * self.scale + self.centre)

    def values(self, z: Tensor) -> dict[str, numpy.ndarray]:
        """Return samples (n, d) in the model's units as columns of the table."""
        return self.schema.table(self.in_table(z))


def _chosen(column: Column, values: numpy.ndarray, dequantise: bool, wanted: str | None) -> Column:
    """Return a column of numbers with a scale that has bounds only where it fits clearly better, others as they are."""
    if column.kind not in ("continuous", "integer"):
        return column
    if not dequantise:
        column = replace(numeric(column.title, values, wanted, dequantise=False), kind="continuous", dequantised=False)
    if wanted is not None:
        return column
    if column.scale in ("log", "logit") and gain(column, values) < GAIN:
        column = replace(column, scale="none", offset=0.0)
    return replace(column, lower=None, upper=None) if column.scale == "none" and column.kind == "continuous" else column


@dataclass(frozen=True)
class Layout:
    """What the rows of a table look like, so that samples look the same.

    Attributes:
        titles: the names of its columns, as text.
        columns: the names as a DataFrame has them, None for an array.
        dtypes: the types of a DataFrame's columns.
    """

    titles: tuple[str, ...]
    columns: Any = None
    dtypes: tuple[Any, ...] = ()

    def rows(self, values: Mapping[str, numpy.ndarray]) -> Any:
        """Return columns by name as an array (n, columns) in float64, or a DataFrame of the same types."""
        if self.columns is None:
            return numpy.column_stack([values[one].astype(numpy.float64) for one in self.titles])
        pandas = pandas_for("a DataFrame")
        parts = [pandas.Series(_storable(values[one], dtype)).astype(dtype) for one, dtype in zip(self.titles, self.dtypes, strict=True)]
        made = pandas.concat(parts, axis=1)
        made.columns = self.columns
        return made


def _storable(values: numpy.ndarray, dtype: Any) -> numpy.ndarray:
    """Return values as a column of a type of pandas takes them: for integers the nearest ones that it holds."""
    stored = getattr(dtype, "numpy_dtype", dtype)  # of types with missing values of their own, such as Int8
    if not isinstance(stored, numpy.dtype) or stored.kind not in "iu" or values.dtype.kind != "f":
        return values
    limits = numpy.iinfo(stored)
    held = [None if one != one else min(max(round(one), limits.min), limits.max) for one in values.tolist()]
    return numpy.array(held, dtype=object) if None in held else numpy.array(held, dtype=stored)
