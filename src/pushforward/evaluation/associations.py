"""Which columns of a table depend on each other most."""

from collections.abc import Sequence

import numpy
from torch import Tensor

from pushforward.column import Column

ROWS = 2000  # rows that correlations are measured on


def associations(columns: Sequence[tuple[Column, Tensor]]) -> numpy.ndarray:
    """Return how strongly each two columns depend on each other, (d, d) in [0, 1]: the largest absolute correlation of their coordinates.

    A number has its rank as its only coordinate, with missing values in the middle; a category has one for each of its words.

    Args:
        columns: each column with its values (n,), NaN where missing, the numbers of words for a category.
    """
    parts = [_coordinates(column, values[:ROWS].numpy()) for column, values in columns]
    owner = numpy.repeat(numpy.arange(len(parts)), [part.shape[1] for part in parts])
    z = numpy.concatenate(parts, axis=1)
    z = z - z.mean(axis=0)
    z = z / numpy.maximum(numpy.sqrt((z**2).sum(axis=0)), 1e-12)
    strength = numpy.zeros((len(parts), len(parts)))
    numpy.maximum.at(strength, (owner[:, None], owner[None, :]), numpy.abs(z.T @ z))
    numpy.fill_diagonal(strength, 0.0)
    return strength


def strongest(strength: numpy.ndarray, count: int) -> list[int]:
    """Return the columns, in their order, of the strongest pairs: pair by pair until there are `count` columns."""
    first, second = numpy.triu_indices(len(strength), 1)
    chosen: dict[int, None] = {}
    for k in numpy.argsort(-strength[first, second], kind="stable"):
        chosen |= dict.fromkeys((int(first[k]), int(second[k])))
        if len(chosen) >= count:
            break
    return sorted(list(chosen)[:count])


def _coordinates(column: Column, values: numpy.ndarray) -> numpy.ndarray:
    if column.words:
        used = numpy.unique(values[~numpy.isnan(values)])
        return (values[:, None] == used).astype(float) if len(used) else numpy.zeros((len(values), 1))
    from scipy.stats import rankdata  # half a second, which runs without tables do not need

    ranks = rankdata(values, nan_policy="omit")
    middle = numpy.nanmean(ranks) if (~numpy.isnan(values)).any() else 0.0
    return numpy.nan_to_num(ranks, nan=middle)[:, None]
