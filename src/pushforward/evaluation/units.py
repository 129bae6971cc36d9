"""The units of an evaluation: of likelihoods, by what is continuous, and of distances, by what a column's unit is worth."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.column import Column
from pushforward.data.dataset import Dataset
from pushforward.evaluation.columns import gaps_of, schema_of
from pushforward.schema import Schema

LARGE = 1e6  # from which numbers are written with a power of ten

NATS, BITS = "nats per row", "bits per dimension"
STANDARDISED, DATA = "standardised", "data"
WORDS = 100  # coordinates of a category: its rarest words share the last one


def likelihood_unit(data: Dataset) -> str:
    """Return the unit that likelihoods are reported in: nats per row for vectors with a continuous column, else bits per dimension."""
    levels = data.levels
    continuous = levels is None or (isinstance(levels, tuple) and None in levels)
    return NATS if len(data.shape) == 1 and continuous else BITS


def per_bit(unit: str, dimensions: int) -> float:
    """Return what a likelihood in bits per dimension is multiplied by to be in this unit, for events of so many values."""
    return dimensions * math.log(2) if unit == NATS else 1.0


def unit_of_distances(unit: str) -> str:
    """Return the words for a unit of distances in tables and pictures."""
    return "standard deviations of the columns" if unit == STANDARDISED else "the data's units"


def distance_unit(train: Dataset) -> tuple[str, Callable[[Tensor], Tensor]]:
    """Return the unit that distances are measured in, and the function that takes events to it.

    Columns of a table, and of other vectors of more than two values, are standardised. Images, points of a plane, and vectors whose
    values all have the same levels have one unit for all coordinates already, which is kept.
    """
    named = train.schema is not None and bool(train.schema.columns)
    if len(train.shape) == 1 and not isinstance(train.levels, int) and (named or train.shape[0] > 2):
        return STANDARDISED, Standardised(train)
    return DATA, lambda x: x


class Standardised:
    """Rows (n, features) of a table as coordinates (n, D) in which distances do not depend on the units of columns.

        z = (x - mean) / std    for numbers;    z = (onehot(x) - p) / sqrt(1 - sum p^2)    for categories with frequencies p

    with mean, std (1 for a column of zeros, |mean| for any other constant) and p of the training data. Two independent rows are then at
    mean squared distance 2 in each column, whatever its kind. The values that fill gaps are replaced by the mean, so that only the
    mark of a missing value, a column of 0 and 1, counts.

    Args:
        train: the training data, vectors with or without a schema.
    """

    def __init__(self, train: Dataset) -> None:
        schema = schema_of(train)
        assert schema is not None
        self.schema: Schema = schema
        x = train.x.cpu().double()
        gaps = gaps_of(schema, x)
        self.parts = [_fitted(column, x[:, k], gaps.get(column.title)) for k, column in enumerate(schema.columns)]

    def __call__(self, x: Tensor) -> Tensor:
        """Return z (n, D) in float32 on the CPU."""
        x = x.detach().cpu().double()
        gaps = gaps_of(self.schema, x)
        parts = [
            part(x[:, k], gaps.get(column.title)) for k, (column, part) in enumerate(zip(self.schema.columns, self.parts, strict=True))
        ]
        return torch.cat(parts, dim=1).float()


def _fitted(column: Column, values: Tensor, gaps: Tensor | None) -> Callable[[Tensor, Tensor | None], Tensor]:
    return _category(column, values) if column.words else _number(values if gaps is None else values[~gaps])


def _number(values: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    mean = float(values.mean()) if len(values) else 0.0
    std = float(values.std(correction=0)) if len(values) else 0.0
    scale = std if std > 1e-9 * abs(mean) else abs(mean) or 1.0  # below that it is the rounding of a constant's mean

    def coordinates(x: Tensor, gaps: Tensor | None) -> Tensor:
        z = (x - mean) / scale
        return (z if gaps is None else z.masked_fill(gaps, 0.0))[:, None]

    return coordinates


def _category(column: Column, values: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    count = len(column.words)
    order = values.long().bincount(minlength=count).argsort(descending=True, stable=True)
    place = torch.empty(count, dtype=torch.int64).scatter_(0, order, torch.arange(count).clamp_max(WORDS - 1))

    def onehot(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(place[x.long().clamp(0, count - 1)], min(count, WORDS)).double()

    p = onehot(values).mean(0)
    spread = float((1 - p.square().sum()).clamp_min(0)) or 1.0
    return lambda x, gaps: (onehot(x) - p) / math.sqrt(spread)


def fixed(value: float, form: str) -> str:
    """Return a number in a format such as ".3f"; a large one with a power of ten, and one that is none as a dash."""
    if math.isnan(value):
        return "–"
    return f"{value:.2e}" if LARGE <= abs(value) < math.inf else format(value, form).replace("inf", "∞")
