"""Weights of rows: which rows count how often, and a loss in which each row has its weight."""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import shown
from pushforward.data.dataset import Dataset
from pushforward.data.raw import Raw
from pushforward.errors import DataError, UserError
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel


def checked_weights(sample_weight: Any, n: int) -> numpy.ndarray | None:
    """Return weights (n,) as float64, None where none are given.

    Raises:
        DataError: they have another shape, are no finite numbers, negative, all 0, or all but one negligible.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, str | bytes):
        raise DataError(f"sample_weight is {shown(sample_weight)}, but it is one number of 0 or more for each row.")
    try:
        given = numpy.asarray(sample_weight)
        weights = given.astype(numpy.float64, casting="unsafe" if given.dtype == object else "same_kind")
    except (TypeError, ValueError):
        raise DataError("sample_weight holds values that are no numbers, but it is one number of 0 or more for each row.") from None
    if weights.shape != (n,):
        raise DataError(f"sample_weight has shape {weights.shape}, but X has {n} rows; give one number for each, of shape ({n},).")
    wrong = ~(numpy.isfinite(weights) & (weights >= 0))
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(f"sample_weight is {weights[first]} in row {first} (counted from 0), but a weight is finite and 0 or more.")
    if not weights.any():
        raise DataError("every sample_weight is zero, so that no row is left to fit; give some rows a weight above 0.")
    shares = weights / weights.max()
    rows, effective = int((weights > 0).sum()), float(shares.sum() ** 2 / shares.dot(shares))
    if rows > 1 and effective < 1.01:
        raise DataError(
            f"sample_weight {weights.max():g} in row {int(weights.argmax())} makes {rows} rows count as {effective:.2f} "
            "(sum(w)^2 / sum(w^2)), so that no density can be fit; give weights that differ less."
        )
    return weights


def counted(raws: Sequence[Raw], weights: numpy.ndarray | None, least: int) -> tuple[numpy.ndarray, numpy.ndarray | None]:
    """Return the numbers of the rows to fit, and their weights with mean 1, None where all are equal.

    A row of weight 0 is left out. Copies of a row count as one with the sum of their weights, so that none of them is held out while
    another is trained on: where at least two columns of real numbers differ between any two rows that are not equal in full, equal rows are
    copies, and otherwise (words, integers, rounded numbers) a coincidence. Rows with weights are put in an order of their own, so that a
    weight of 2 and a row that is given twice lead to the same fit.

    Args:
        raws: the columns, with those of the conditions.
        weights: the weights (n,), or None.
        least: the fewest rows that may be left of those that are merged.
    """
    rows = numpy.arange(len(raws[0].values)) if weights is None else numpy.flatnonzero(weights > 0)
    own = numpy.ones(len(rows)) if weights is None else weights[rows]
    with numpy.errstate(over="ignore"):
        own = own if numpy.isfinite(own.sum()) else own / own.max()
    keys = [one.values[rows] for one in raws if one.values.dtype != object and not _whole(one.values[rows])]
    if len(keys) >= 2 and len(rows) and len(numpy.unique(keys[0])) < len(rows):
        _, first, of = numpy.unique(_codes(raws, rows), axis=0, return_index=True, return_inverse=True)
        distinct = sum(len(numpy.unique(one)) == len(first) for one in keys)
        if distinct >= 2 and least <= len(first) < len(rows):
            order = numpy.argsort(first)  # by the first of the copies
            own, rows = numpy.bincount(of.reshape(-1), own)[order], rows[first[order]]
    if (own == own[:1]).all():
        return rows, None
    order = numpy.lexsort(_codes(raws, rows).T)
    return rows[order], own[order] / own.mean()


def _whole(values: numpy.ndarray) -> bool:
    known = values[~numpy.isnan(values)]
    return bool((known == numpy.rint(known)).all())


def _codes(raws: Sequence[Raw], rows: numpy.ndarray) -> numpy.ndarray:
    """Return the place (n, columns) of each value among the sorted ones of its column."""
    columns = [one.values[rows] if one.values.dtype != object else [f"{type(v).__name__} {v}" for v in one.values[rows]] for one in raws]
    return numpy.column_stack([numpy.unique(one, return_inverse=True)[1].reshape(-1) for one in columns])


def repeated(weights: numpy.ndarray, most: int) -> numpy.ndarray:
    """Return rows (most,), each as often as its share of the weights: at equal distances along their cumulative sum."""
    ends = numpy.cumsum(weights)
    found: numpy.ndarray = numpy.searchsorted(ends, (numpy.arange(most) + 0.5) / most * ends[-1], side="right")
    return found.clip(max=len(weights) - 1)


def quantile(values: numpy.ndarray, share: float, weights: numpy.ndarray | None) -> float:
    """Return the value below which this share of the rows, or of their weights, is; of infinite ones the least finite value."""
    known = values[numpy.isfinite(values)]
    if len(known) < len(values):
        return float(known.min(initial=0.0))
    if weights is None:
        return float(numpy.percentile(values, 100 * share))
    order = numpy.argsort(values, kind="stable")  # numpy.quantile takes weights from NumPy 2 on
    order = order[weights[order] > 0]
    ends = numpy.cumsum(weights[order])
    place = numpy.searchsorted(ends, share * ends[-1]).clip(max=len(ends) - 1)
    return float(values[order[place]])


def with_weights(data: Dataset, weights: Tensor) -> Dataset:
    """Return a set whose rows (n, d + 1) end with their weight, as `Weighted` reads them."""
    return Dataset(data.name, torch.cat((data.x, weights[:, None].to(data.x)), dim=1), data.cond, classes=data.classes)


class Weighted(GenerativeModel):
    """A model whose loss weights rows, for the Trainer: each row of a batch is an event x (d,) and then its weight.

        loss = mean_i w_i loss(x_i)

    Args:
        model: the model, of events (d,), which is trained.

    Raises:
        UserError: its loss calls averaged weights, which the Trainer does not give to a model inside another.
    """

    def __init__(self, model: GenerativeModel) -> None:
        if isinstance(model, FlowMap) and model.objective.uses_average:
            raise UserError("sample_weight is given, but the loss of this preset uses averaged weights, which has no weighted form.")
        super().__init__((model.shape[0] + 1,), model.base)
        self.model, self.classes, self.conditioning, self.drop_cond = model, model.classes, model.conditioning, model.drop_cond

    def networks(self) -> list[Any]:
        return self.model.networks()

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit data-dependent parts to training data; each row counts once, as these are only units."""
        self.model.initialise(x[:, :-1], cond)

    def loss(self, x: Tensor, cond: Any = None, *, noise: Tensor | None = None, generator: _random.Generators = None) -> Tensor:
        """Return the weighted loss of a batch (n, d + 1), a scalar."""
        self.model.input_noise, self.model.progress = self.input_noise, self.progress
        self.model.row_weights = x[:, -1]
        try:
            return self.model.loss(x[:, :-1], cond, noise=noise, generator=generator)
        finally:
            self.model.row_weights, self.model.input_noise, self.model.progress = None, 0.0, 1.0
