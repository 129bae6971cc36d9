"""What a density is conditional on: classes, or numbers and categories as vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.column import Column
from pushforward.data.frames import as_words
from pushforward.data.given_columns import check_complete, columns_given, described_columns, encoded_columns
from pushforward.data.raw import Raw
from pushforward.errors import ConditionError
from pushforward.estimators.reading import row


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
            check_complete("condition", one, row)
        columns = described_columns("X", raws)
        numbers = [(0.0, 1.0) if one.values.dtype == object else (one.values.mean(), one.values.std()) for one in raws]
        centre, scale = tuple(float(mean) for mean, _ in numbers), tuple(float(std) or 1.0 for _, std in numbers)
        found = cls(columns, centre, scale)
        cond = found.encoded(raws)
        if found.classes:
            # In float64, as numpy draws only from shares that sum to 1 to its precision.
            counts = cond.bincount(None if weights is None else torch.from_numpy(weights), minlength=found.classes).double()
            found = cls(columns, centre, scale, tuple((counts / counts.sum()).tolist()))
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
        vectors = encoded_columns("condition", raws, self.columns, row, standard="when the model was fitted")
        if self.classes:
            return torch.from_numpy(vectors.argmax(1))
        sizes = [len(one.words) or 1 for one in self.columns]
        return torch.from_numpy((vectors - numpy.repeat(self.centre, sizes)) / numpy.repeat(self.scale, sizes))

    def of(self, given: Any, n: int) -> tuple[Tensor, dict[str, numpy.ndarray]]:
        """Return n conditions, and their columns by name, from what a user gives for samples: one condition for all, or one for each.

        Raises:
            ConditionError: it has other columns, or another number of rows.
        """
        raws = columns_given(given, self.columns)
        rows = {len(one.values) for one in raws}
        if len(rows) != 1 or not rows <= {1, n}:
            counts = " and ".join(map(str, sorted(rows)))
            raise ConditionError(f"given has {counts} rows, but {n} samples need one condition for all, or {n}; see n_samples.")
        raws = [one.rows(numpy.resize(numpy.arange(len(one.values)), n)) for one in raws]
        return self.encoded(raws), {one.title: one.values for one in raws}
