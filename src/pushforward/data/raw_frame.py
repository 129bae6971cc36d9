"""The columns of a DataFrame as plain arrays: numbers with NaN, or words with None where a value is missing."""

import math
from typing import Any

import numpy

from pushforward._pandas import as_pandas, pandas_for
from pushforward.data.raw import EXACT, Raw, numbers_of, unreadable
from pushforward.errors import DataError


def columns_of(name: str, frame: Any) -> list[Raw]:
    """Return the columns of a DataFrame; one that holds dates, or anything else than numbers, words and bool, has a `problem`.

    Args:
        name: what messages call it.
        frame: the DataFrame.

    Raises:
        DataError: it has no rows or columns.
    """
    frame = as_pandas(name, frame)
    frame = frame.to_frame() if frame.ndim == 1 else frame
    if 0 in frame.shape:
        raise DataError(f"{name} has {frame.shape[0]} rows and {frame.shape[1]} columns; a table needs at least one of each.")
    return [_column(name, str(title), frame.iloc[:, k]) for k, title in enumerate(frame.columns)]


def _column(name: str, title: str, series: Any) -> Raw:
    types = pandas_for(name).api.types
    dtype = series.dtype
    if types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype) or str(dtype).startswith("period"):
        return unreadable(title, len(series), f"holds dates ({dtype}); convert it to numbers, such as days")
    if types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype) and dtype.kind != "c":
        return _numbers(title, series)
    words = _words(series)
    problem = _problem(words)
    if problem:
        return unreadable(title, len(series), problem)
    if isinstance(dtype, pandas_for(name).CategoricalDtype):
        present = {one for one in words if one is not None}
        return Raw(title, words, tuple(one for one in _words(dtype.categories.to_series()) if one in present))
    if {type(one) for one in words if one is not None} <= {int, float} and any(one is not None for one in words):
        values = numpy.array([math.nan if one is None else float(one) for one in words])
        return numbers_of(title, values, [one for one in words if one is not None])
    return Raw(title, words)


def _numbers(title: str, series: Any) -> Raw:
    values = series.to_numpy(dtype=numpy.float64, na_value=numpy.nan)
    whole = not pandas_for(title).api.types.is_float_dtype(series.dtype)
    if whole and numpy.nanmax(numpy.abs(values), initial=0.0) > EXACT:
        return numbers_of(title, values, series.dropna().tolist())
    return Raw(title, values)


def _words(series: Any) -> numpy.ndarray:
    """Return values as objects of Python, None where they are missing."""
    gaps = series.isna().to_numpy()
    held = numpy.empty(len(series), dtype=object)
    for k, one in enumerate(series.tolist()):
        held[k] = None if gaps[k] else one.item() if isinstance(one, numpy.generic) else one
    return held


def _problem(words: numpy.ndarray) -> str:
    """Return what is wrong with values that are not all numbers, or all words, or all bool, and what to do."""
    if any(hasattr(one, "isoformat") for one in words if one is not None):
        return "holds dates; convert it to numbers, such as days"
    kinds = {type(one) for one in words if one is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool}):
        return ""
    what = " and ".join(sorted(kind.__name__ for kind in kinds))
    return f"holds values of type {what}, but a column has numbers or words; convert it"
