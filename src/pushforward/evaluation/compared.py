"""Columns of a table in held-out data and in samples, with the axis and the bins that both share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy
from torch import Tensor

from pushforward.column import Column
from pushforward.evaluation.columns import columns_of
from pushforward.schema import Schema

WORDS = 8  # words of a category with a place of their own; the others share one
CELLS = 30  # range of integers up to which each of them has a bin
DECADE = 10.0  # ratio of the largest to the smallest value from which an axis is logarithmic


@dataclass(frozen=True)
class Compared:
    """One column of held-out data and of samples.

    Args:
        column: what it is.
        real: values (n,) of held-out data, NaN where missing; of a category the places of its words. With none, the axis and its bins
            are those of the samples.
        made: values (m,) of samples.
        words: what the places of a category are called; empty for numbers.
    """

    column: Column
    real: numpy.ndarray
    made: numpy.ndarray
    words: tuple[str, ...] = ()

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The ends of the axis: all held-out values, and all samples but the outermost 1 %."""
        if self.words:
            return -0.5, len(self.words) - 0.5
        real, made = present(self.real), present(self.made)
        ends = [*([real.min(), real.max()] if len(real) else []), *(numpy.quantile(made, [0.005, 0.995]) if len(made) else [])]
        low, high = (float(min(ends)), float(max(ends))) if ends else (0.0, 1.0)
        if self.column.kind == "integer":
            return math.floor(low) - 0.5, math.ceil(high) + 0.5
        margin = 0.0 if high > low else 0.5 * (abs(low) or 1.0)
        return low - margin, high + margin

    @cached_property
    def log_from(self) -> float | None:
        """The smallest value above 0 where the axis is logarithmic; None where it is linear.

        It is logarithmic for a column on the log scale whose values above 0 span at least a factor of 10. Values at 0 are on a linear
        piece below `log_from`.
        """
        positive = present(self.real if len(self.real) else self.made)
        positive = positive[positive > 0]
        if (
            self.column.scale != "log"
            or self.column.lower != 0
            or not len(positive)
            or self.limits[1] - self.limits[0] <= CELLS * self._whole
        ):
            return None
        smallest = float(positive.min()) if self.limits[0] <= 0 else self.limits[0]
        return smallest if self.limits[1] >= DECADE * smallest else None

    @property
    def _whole(self) -> bool:
        return self.column.kind == "integer"

    def bins(self) -> numpy.ndarray:
        """Return the edges of the bins that both histograms share: about the square root of the number of held-out values."""
        low, high = self.limits
        count = min(30, max(6, math.ceil(math.sqrt(len(self.real) or len(self.made)))))
        if self.words:
            return numpy.arange(len(self.words) + 1) - 0.5
        if self.log_from is not None:
            edges = numpy.geomspace(self.log_from, high, count + 1)
            edges = numpy.unique(numpy.floor(edges) + 0.5) if self._whole else edges
            return edges if edges[0] <= low else numpy.concatenate(([low], edges))
        if self._whole:  # bins of equally many integers
            width = 1 if high - low <= CELLS else math.ceil((high - low) / count)
            return numpy.arange(low, high + width, width)
        return numpy.linspace(low, high, count + 1)

    def shares(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return the shares of held-out values and of samples in each bin, of those that are not missing."""
        real, made = (_shares(present(values), self.bins()) for values in (self.real, self.made))
        return real, made

    def missing(self) -> tuple[float, float]:
        """Return the shares of missing values in held-out data and in samples."""
        real, made = (float(numpy.isnan(values).mean()) if len(values) else 0.0 for values in (self.real, self.made))
        return real, made

    def difference(self) -> float:
        """Return how different the two are, in [0, 1].

        For numbers the largest difference of their distribution functions, for categories half the summed differences of shares; or the
        difference in missing values, if that is more.
        """
        gaps = abs(self.missing()[0] - self.missing()[1])
        real, made = present(self.real), present(self.made)
        if not len(real) or not len(made):
            return gaps
        if self.words:
            shares = self.shares()
            return max(gaps, float(numpy.abs(shares[0] - shares[1]).sum() / 2))
        at = numpy.concatenate((real, made))
        below = [numpy.searchsorted(numpy.sort(values), at, side="right") / len(values) for values in (real, made)]
        return max(gaps, float(numpy.abs(below[0] - below[1]).max()))


def compared(schema: Schema, real: Tensor, made: Tensor) -> list[Compared]:
    """Return the columns of held-out data (n, features), with n = 0 of samples alone, and samples (m, features)."""
    both = zip(columns_of(schema, real), columns_of(schema, made), strict=True)
    return [
        _category(column, a.numpy(), b.numpy()) if column.words else Compared(column, a.numpy(), b.numpy()) for (column, a), (_, b) in both
    ]


def present(values: numpy.ndarray) -> numpy.ndarray:
    """Return the values that are not missing."""
    return values[~numpy.isnan(values)]


def _category(column: Column, real: numpy.ndarray, made: numpy.ndarray) -> Compared:
    """Give each word a place: in the schema's order if they are few; else the most frequent of both first, and the others together."""
    words = [str(word) for word in column.words if word is not None]  # a missing value's word is the last one
    if len(words) <= WORDS:
        return Compared(column, real, made, tuple(words))
    edges = numpy.arange(len(words) + 1) - 0.5
    frequent = numpy.argsort(-_shares(present(real), edges) - _shares(present(made), edges), kind="stable")
    places = numpy.empty(len(words))
    places[frequent] = numpy.minimum(numpy.arange(len(words)), WORDS)
    real, made = (numpy.where(numpy.isnan(one), numpy.nan, places[numpy.nan_to_num(one).astype(int)]) for one in (real, made))
    return Compared(column, real, made, (*(words[k] for k in frequent[:WORDS]), f"{len(words) - WORDS} others"))


def _shares(values: numpy.ndarray, edges: Sequence[float] | numpy.ndarray) -> numpy.ndarray:
    return numpy.histogram(values, edges)[0] / max(len(values), 1)
