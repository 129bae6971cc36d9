"""What a column of numbers is, from its values: continuous or integer, its bounds, and the scale in which it is closest to a Gaussian."""

from collections.abc import Mapping, Sequence
from typing import cast, get_args

import numpy
from torch import Tensor

from pushforward.column import Column, Scale, Word
from pushforward.data.raw import EXACT
from pushforward.errors import UserError
from pushforward.functional.levels import Level, Levels
from pushforward.registry import unknown
from pushforward.schema import Schema

LARGEST = 2**20  # integers up to here have unit cells that float32 resolves into eight parts
OFFSETS = (0.01, 0.1, 1.0, 10.0)  # standard deviations between a bound that values lie on and the end of the scale
MARGINS = (0.01, 0.05, 0.25)  # the same for an interval, in its lengths
EDGE = 0.01  # the same for the cells of a category
OUTLIER = 20  # interquartile ranges from the median beyond which a column has heavy tails


def numeric(title: str, values: numpy.ndarray, scale: str | None = None, *, dequantise: bool = True) -> Column:
    """Return the column of numbers, whose scale is chosen from the values unless it is given.

    A column without negative values is bounded by 0: on the log scale, or, with values up to 1 and some above 1/2, on the logit scale of
    [0, 1]. A column with values further than 20 interquartile ranges from its median is on the quantile scale. An offset, needed where
    values lie on a bound, is the one with the largest likelihood of a Gaussian on that scale, which also decides whether integers are on
    the log scale. A column with a single value is bounded by it.

    Args:
        title: the column's name.
        values: the values (N,), none of them missing.
        scale: "none", "log", "logit" or "quantile" in place of the choice.
        dequantise: whether integers have unit cells.

    Raises:
        UserError: the scale is unknown, or is not possible for these values.
    """
    if scale is not None and scale not in get_args(Scale):
        raise UserError(f"the scale of column {title!r}: {unknown('scale', str(scale), get_args(Scale))}")
    values = values.astype(numpy.float64)
    with numpy.errstate(over="ignore"):
        held = values.astype(numpy.float32).astype(numpy.float64)  # as a data set holds them: 1e-50 is 0
    if not numpy.isfinite(held).all():  # a data set refuses them, with their row
        return Column(title)
    low, high = float(values.min()), float(values.max())
    integer = max(-low, high) <= EXACT and bool((values == numpy.rint(values)).all())  # beyond it every float64 is an integer
    cells = integer and dequantise and max(-low, high) <= LARGEST
    inner = held + 0.5 if cells else held
    if scale == "log" and low < 0:
        raise UserError(f"the scale of column {title!r} is 'log', but it has values down to {low:g}; use 'none' or 'quantile'.")
    lower, upper, offset = (0.0 if low >= 0 else None), None, 0.0
    if low == high:
        scale, lower, upper = "none", low, high
    share = not integer and low >= 0 and 0.5 < high <= 1
    if scale == "logit" or (scale is None and share):
        scale = "logit"
        lower, upper, offset = _interval(inner, (0.0, 1.0) if share else (low, high + 1 if cells else high))
    elif scale in ("log", None) and low >= 0 and high > low:
        candidates = [0.0] if inner.min() > 0 and not integer else [one * float(values.std()) for one in OFFSETS]
        offset = max(candidates, key=lambda one: _log_fit(inner, one))
        better = not integer or _log_fit(inner, offset) > _fit(inner, 0.0)
        scale, offset = ("log", offset) if scale or better else ("none", 0.0)
    elif scale is None:
        scale = "quantile" if _heavy(values) else "none"
    return Column(
        title,
        "integer" if integer else "continuous",
        low=low,
        high=high,
        scale=cast(Scale, scale),
        lower=lower,
        upper=upper,
        offset=offset,
        dequantised=cells,
    )


def gain(column: Column, values: numpy.ndarray) -> float:
    """Return by how many nats a value a Gaussian fits the values (N,) of a column better on its log or logit scale than on its own.

    Args:
        column: the column, on its scale.
        values: its values, none of them missing.
    """
    inner = values.astype(numpy.float64) + (0.5 if column.dequantised else 0.0)
    lower = column.lower or 0.0
    if column.scale == "log":
        return _log_fit(inner - lower, column.offset) - _fit(inner, 0.0)
    if column.scale == "logit" and column.upper is not None:
        return _logit_fit(inner, lower, column.upper, column.offset) - _fit(inner, 0.0)
    return 0.0


def category(title: str, words: Sequence[Word]) -> Column:
    """Return the column of a category: its cells on the logit scale, so that the density ends where they do."""
    count = len(words)
    return Column(title, "category", words=tuple(words), scale="logit", lower=0.0, upper=float(count), offset=EDGE * count)


def mark(title: str) -> Column:
    """Return the column that marks where another one is missing, on the scale of a category of two."""
    return Column(f"{title} is missing", "missing", scale="logit", lower=0.0, upper=2.0, offset=2 * EDGE, of=title)


def described(
    names: Sequence[str] | None,
    levels: Levels,
    categories: Mapping[str, Sequence[Word]],
    class_names: Sequence[Word] | None,
    x: Tensor | None = None,
) -> Schema | None:
    """Return what a data set knows of its columns and classes as a schema, None if it knows nothing.

    Args:
        names: names of the features, or None if the data are no table.
        levels: the data's levels.
        categories: the values that the levels of a column stand for, by its name.
        class_names: names of the classes, or None.
        x: the examples (N, features), if they are in memory.
    """
    each = levels if isinstance(levels, tuple) else [levels] * len(names or ())
    columns = tuple(
        _described(name, each[k], categories.get(name, ()), None if x is None else x[:, k]) for k, name in enumerate(names or ())
    )
    titles = {one.title for one in columns}
    label = next(title for title in ("label", "class", "label of the row") if title not in titles)
    if class_names is None:
        return Schema(columns) if columns else None
    return Schema(columns, Column(label, "category", words=tuple(class_names)))


def _described(name: str, level: Level, words: Sequence[Word], x: Tensor | None) -> Column:
    if words:
        return category(name, words)
    if level is not None:
        low, high = level if isinstance(level, tuple) else (0, level - 1)
        return Column(name, "integer", low=low, high=high, dequantised=True)
    return Column(name) if x is None else numeric(name, x.double().numpy(), dequantise=False)


def _interval(values: numpy.ndarray, ends: tuple[float, float]) -> tuple[float, float, float]:
    """Return the ends of a logit scale with the best distance from them, 0 if all values are inside."""
    lower, upper = ends
    if lower < values.min() and values.max() < upper:
        return lower, upper, 0.0
    return lower, upper, max((one * (upper - lower) for one in MARGINS), key=lambda one: _logit_fit(values, lower, upper, one))


def _heavy(values: numpy.ndarray) -> bool:
    low, middle, high = numpy.quantile(values, [0.25, 0.5, 0.75])
    return bool(high > low and numpy.abs(values - middle).max() > OUTLIER * (high - low))


def _fit(z: numpy.ndarray, log_slope: numpy.ndarray | float) -> float:
    """Return the mean log-likelihood of a Gaussian fitted on a scale, up to a constant, in the units of the values."""
    return float(-numpy.log(z.std() + 1e-300) + numpy.mean(log_slope))


def _log_fit(values: numpy.ndarray, offset: float) -> float:
    z = numpy.log(values + offset)
    return _fit(z, -z)


def _logit_fit(values: numpy.ndarray, lower: float, upper: float, offset: float) -> float:
    p = (values - lower + offset) / (upper - lower + 2 * offset)
    return _fit(numpy.log(p) - numpy.log1p(-p), -numpy.log(p) - numpy.log1p(-p) - numpy.log(upper - lower + 2 * offset))
