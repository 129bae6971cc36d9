"""What a density is conditional on: classes, or numbers and categories as vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._pandas import is_frame
from pushforward.data.frames import as_words
from pushforward.data.inference import category
from pushforward.data.raw import LARGEST, Raw
from pushforward.data.raw_frame import columns_of
from pushforward.data.tabulate import encoded, ordered_words
from pushforward.errors import ConditionError, DataError
from pushforward.estimators.reading import row
from pushforward.registry import unknown
from pushforward.schema import Column


@dataclass(frozen=True)
class Conditions:
    """Columns of conditions, fitted to those of training.

    Attributes:
        columns: what they are; one category alone is the number of a class, all else is a vector: numbers standardised, one entry a word.
        centre: what is subtracted from each number.
        scale: what it is then divided by.
        frequencies: share of each class, empty for vectors.
    """

    columns: tuple[Column, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    frequencies: tuple[float, ...] = ()

    @classmethod
    def fitted(cls, raws: Sequence[Raw], accepted: Sequence[str] = (), weights: numpy.ndarray | None = None) -> tuple["Conditions", Tensor]:
        """Return what these columns are, and the conditions of their rows: int64 (n,) or float64 (n, features); classes count by weights.

        Raises:
            DataError: a value is missing or infinite, or a column cannot be read.
        """
        raws = [as_words("X", one) if one.title in accepted else one for one in raws]
        for one in raws:
            _check(one)
        columns = [category(one.title, ordered_words("X", one)) if one.values.dtype == object else Column(one.title) for one in raws]
        numbers = [(0.0, 1.0) if one.values.dtype == object else (one.values.mean(), one.values.std()) for one in raws]
        centre, scale = tuple(float(mean) for mean, _ in numbers), tuple(float(std) or 1.0 for _, std in numbers)
        found = cls(tuple(columns), centre, scale)
        cond = found.encoded(raws)
        if found.classes:
            counts = cond.bincount(None if weights is None else torch.from_numpy(weights), minlength=found.classes)
            found = cls(tuple(columns), centre, scale, tuple((counts / counts.sum()).tolist()))
        return found, cond

    @property
    def titles(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(one.title for one in self.columns)

    @property
    def classes(self) -> int:
        """How many classes there are, 0 for vectors."""
        return len(self.columns[0].words) if len(self.columns) == 1 else 0

    @property
    def features(self) -> int:
        """The length of the vectors."""
        return sum(len(one.words) or 1 for one in self.columns)

    def encoded(self, raws: Sequence[Raw]) -> Tensor:
        """Return the conditions of rows.

        Raises:
            DataError: a value is missing, infinite, or a word that training did not have.
        """
        parts = []
        for raw, column, centre, scale in zip(raws, self.columns, self.centre, self.scale, strict=True):
            _check(raw)
            if column.words:
                numbers = encoded("condition", raw, column, row).astype(numpy.int64)
                if self.classes:
                    return torch.from_numpy(numbers)
                parts.append(numpy.eye(len(column.words))[numbers])
                continue
            if raw.values.dtype == object:
                raise DataError(f"condition: column {raw.title!r} holds words, but it held numbers when the model was fitted; convert it.")
            parts.append((raw.values[:, None] - centre) / scale)
        return torch.from_numpy(numpy.concatenate(parts, axis=1))

    def of(self, given: Any, n: int) -> tuple[Tensor, dict[str, numpy.ndarray]]:
        """Return n conditions, and their columns by name, from what a user gives for samples: one condition for all, or one for each.

        Raises:
            ConditionError: it has other columns, or another number of rows.
        """
        raws = self._raws(given)
        rows = {len(one.values) for one in raws}
        if len(rows) != 1 or not rows <= {1, n}:
            counts = " and ".join(map(str, sorted(rows)))
            raise ConditionError(f"given has {counts} rows, but {n} samples need one condition for all, or {n}; see n_samples.")
        raws = [one.rows(numpy.resize(numpy.arange(len(one.values)), n)) for one in raws]
        return self.encoded(raws), {one.title: one.values for one in raws}

    def _raws(self, given: Any) -> list[Raw]:
        names = ", ".join(self.titles)
        if is_frame(given):
            known = {one.title: one for one in columns_of("given", given)}
        elif isinstance(given, Mapping):
            known = {str(title): raw_of(str(title), values) for title, values in given.items()}
        else:
            values = numpy.asarray(given)
            if values.ndim < 2:
                values = values.reshape(-1, 1) if len(self.columns) == 1 else values.reshape(1, -1)
            if values.ndim != 2 or values.shape[1] != len(self.columns):
                raise ConditionError(
                    f"given has shape {numpy.shape(given)}, but a condition has {len(self.columns)} columns ({names}); give one row, one "
                    "row for each sample, or a dictionary of them."
                )
            known = {title: raw_of(title, values[:, k]) for k, title in enumerate(self.titles)}
        for title in known:
            if title not in self.titles:
                raise ConditionError(f"given: {unknown('condition', title, self.titles)}")
        for title in self.titles:
            if title not in known:
                raise ConditionError(f"given has no {title!r}, but samples are conditional on {names}; give all of them.")
        return [known[title] for title in self.titles]


def raw_of(title: str, values: Any) -> Raw:
    """Return a column of plain values: numbers, or words, None where one is missing."""
    held = numpy.atleast_1d(numpy.asarray(values))
    if held.dtype.kind in "iuf":
        return Raw(title, held.astype(numpy.float64))
    words = numpy.empty(len(held), dtype=object)
    words[:] = [None if one is None or one != one else one.item() if isinstance(one, numpy.generic) else one for one in held.tolist()]
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in words):
        return Raw(title, words.astype(numpy.float64))
    return Raw(title, words)


def _check(raw: Raw) -> None:
    if raw.problem:
        raise DataError(f"condition: column {raw.title!r} {raw.problem}.")
    if raw.missing.any():
        first = int(raw.missing.argmax())
        raise DataError(f"condition: column {raw.title!r} is missing in {row(first)}, but a density is conditional on it; fill it in.")
    if raw.values.dtype != object and (numpy.abs(raw.values) > LARGEST).any():
        first = int((numpy.abs(raw.values) > LARGEST).argmax())
        raise DataError(f"condition: column {raw.title!r} is {raw.values[first]:g} in {row(first)}, but it must be finite; replace it.")
