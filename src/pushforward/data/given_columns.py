"""Columns of a table as conditions: a number as it is, a category as one entry a word."""

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward._pandas import is_frame
from pushforward.column import Column
from pushforward.data.inference import category, numeric
from pushforward.data.raw import LARGEST, Raw, by_title
from pushforward.data.raw_frame import columns_of
from pushforward.data.words import encoded, ordered_words
from pushforward.errors import ConditionError, DataError
from pushforward.registry import export, unknown
from pushforward.schema import Schema

Rows = Callable[[int], str]


@export("data.conditions", example=lambda: conditions(Schema((Column("height"),), given=(Column("age"),)), {"age": [40, 50]}))
def conditions(schema: Schema, given: Any) -> Tensor:
    """Return values of the given columns of a table as the conditions of a model (n, schema.cond_features), in float32.

    Numbers stay as they are, a category is one entry a word: 1 for its word, 0 for the others. `schema.given_values` is the inverse.

    Args:
        schema: the schema of a data set or model (`data.load(..., given=)`).
        given: a DataFrame with these columns and no others, a mapping by name of values or of one value for all rows, or rows in the
            order of `schema.given_names`, which is that of the table.

    Returns:
        One vector a row, for `model.sample(n, cond)`.

    Raises:
        ConditionError: there are other columns, or columns of different lengths.
        DataError: a value is missing, infinite, or none of the words.

    Warns:
        UserWarning: a number is outside the range of training.

    Example:
        >>> from pushforward import data
        >>> sex = data.Column("sex", "category", words=("female", "male"))
        >>> schema = data.Schema((data.Column("height"),), given=(data.Column("age"), sex))
        >>> data.conditions(schema, {"age": 40, "sex": ["male", "female"]})
        tensor([[40.,  0.,  1.],
                [40.,  1.,  0.]])
    """
    if not isinstance(schema, Schema) or not schema.given:
        raise ConditionError(f"schema is {shown(schema)}, which has no given columns; load the data with given=.")
    raws = columns_given(given, schema.given)
    counts = {len(one.values) for one in raws}
    if len(counts - {1}) > 1:
        raise ConditionError(f"given has columns of {' and '.join(map(str, sorted(counts)))} rows; give as many for each, or one for all.")
    raws = [one.rows(numpy.resize(numpy.arange(len(one.values)), max(counts))) for one in raws]
    vectors = encoded_columns("given", raws, schema.given, lambda k: f"row {k} (counted from 0)")
    warn_outside("given", raws, schema.given)
    return torch.from_numpy(vectors).to(torch.float32)


def described_columns(name: str, raws: Sequence[Raw]) -> tuple[Column, ...]:
    """Return what columns of conditions are: categories with their words, and numbers without a scale."""
    return tuple(
        category(one.title, ordered_words(name, one))
        if one.values.dtype == object
        else numeric(one.title, one.values, "none", dequantise=False)
        for one in raws
    )


def encoded_columns(
    name: str, raws: Sequence[Raw], columns: Sequence[Column], row: Rows, *, standard: str = "in training"
) -> numpy.ndarray:
    """Return conditions as vectors (n, features) in float64, as `schema.Schema.given_values` reads them.

    Args:
        name: what messages call the table.
        raws: the columns of the rows.
        columns: what they are.
        row: what messages call a row.
        standard: when the columns were what they are, for messages.

    Raises:
        DataError: a value is missing, infinite, or a word that training did not have, or a number is expected where there are words.
    """
    parts = []
    for raw, column in zip(raws, columns, strict=True):
        check_complete(name, raw, row)
        if column.words:
            parts.append(numpy.eye(len(column.words))[encoded(name, raw, column, row).astype(numpy.int64)])
            continue
        if raw.values.dtype == object:
            raise DataError(f"{name}: column {raw.title!r} holds words, but it held numbers {standard}; convert it.")
        parts.append(raw.values[:, None])
    return numpy.concatenate(parts, axis=1)


def warn_outside(name: str, raws: Sequence[Raw], columns: Sequence[Column]) -> None:
    """Warn of numbers that are outside the range of training, where a network has learned nothing.

    Args:
        name: what messages call the conditions.
        raws: their columns.
        columns: what they are.

    Warns:
        UserWarning: there are some: the first of each column.
    """
    for raw, column in zip(raws, columns, strict=True):
        if column.words or column.low is None or column.high is None:
            continue
        outside = (raw.values < column.low) | (raw.values > column.high)
        if outside.any():
            first = raw.values[outside.argmax()]
            warnings.warn(
                f"{name}: {raw.title} is {first:g}, but training had {column.low:g} to {column.high:g}; samples beyond are extrapolated.",
                stacklevel=3,
            )


def check_complete(name: str, raw: Raw, row: Rows) -> None:
    """Raise if a column of conditions cannot be read, or has values that are missing or not finite."""
    if raw.problem:
        raise DataError(f"{name}: column {raw.title!r} {raw.problem}.")
    if raw.missing.any():
        first = int(raw.missing.argmax())
        raise DataError(f"{name}: column {raw.title!r} is missing in {row(first)}, but a density is conditional on it; fill it in.")
    if raw.values.dtype != object and (numpy.abs(raw.values) > LARGEST).any():
        first = int((numpy.abs(raw.values) > LARGEST).argmax())
        raise DataError(f"{name}: column {raw.title!r} is {raw.values[first]:g} in {row(first)}, but it must be finite; replace it.")


def columns_by_name(name: str, known: Mapping[str, Raw], columns: Sequence[Column]) -> list[Raw]:
    """Return the columns of conditions, of those that a table has.

    Raises:
        DataError: one is missing.
    """
    for one in columns:
        if one.title not in known:
            raise DataError(f"{name} has no column {one.title!r}, which the model is conditional on; it has {', '.join(known)}.")
    return [known[one.title] for one in columns]


def columns_given(given: Any, columns: Sequence[Column]) -> list[Raw]:
    """Return the columns of conditions of what a user gives for samples: a DataFrame, a mapping by name, or rows.

    Raises:
        ConditionError: it has other columns.
    """
    titles = [one.title for one in columns]
    names = ", ".join(titles)
    if is_frame(given):
        known = by_title("given", columns_of("given", given))
    elif isinstance(given, Mapping):
        known = {str(title): raw_of(str(title), values) for title, values in given.items()}
    else:
        values = numpy.asarray(given)
        if values.dtype.kind in "US" and not isinstance(given, numpy.ndarray):  # of numbers and words, which stay what they are
            values = numpy.asarray(given, dtype=object)
        if values.ndim < 2:
            values = values.reshape(-1, 1) if len(columns) == 1 else values.reshape(1, -1)
        if values.ndim != 2 or values.shape[1] != len(columns):
            raise ConditionError(
                f"given has shape {numpy.shape(given)}, but a condition has {len(columns)} columns ({names}); give one row, one "
                "row for each sample, or a dictionary of them."
            )
        known = {title: raw_of(title, values[:, k]) for k, title in enumerate(titles)}
    for title in known:
        if title not in titles:
            raise ConditionError(f"given: {unknown('condition', title, titles)}")
    for title in titles:
        if title not in known:
            raise ConditionError(f"given has no {title!r}, but samples are conditional on {names}; give all of them.")
    return [known[title] for title in titles]


def raw_of(title: str, values: Any) -> Raw:
    """Return a column of plain values: numbers, or words, None where one is missing.

    Raises:
        ConditionError: they are several values for each row.
    """
    held = numpy.atleast_1d(numpy.asarray(values))
    if held.ndim > 1:
        raise ConditionError(f"given: {title} has shape {held.shape}, but it is one value for all rows, or one for each.")
    if held.dtype.kind in "iuf":
        return Raw(title, held.astype(numpy.float64))
    words = numpy.empty(len(held), dtype=object)
    words[:] = [None if one is None or one != one else one.item() if isinstance(one, numpy.generic) else one for one in held.tolist()]
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in words):
        return Raw(title, words.astype(numpy.float64))
    return Raw(title, words)


def of_text(name: str, column: Column, cells: Sequence[str], where: Rows) -> Raw:
    """Return a column of conditions from the cells of a text, which are numbers, or the words of a category as text.

    Args:
        name: what messages call the text.
        column: what the column is.
        cells: its cells.
        where: what messages append to name a cell's row, such as " in row 3".

    Raises:
        DataError: a cell is empty, no finite number, or none of the words.
    """
    words = {str(one): one for one in column.words}
    held = numpy.empty(len(cells), dtype=object if words else numpy.float64)
    for k, cell in enumerate(map(str.strip, cells)):
        if not cell:
            raise DataError(f"{name}: {column.title} is missing{where(k)}, but samples are conditional on it; fill it in.")
        if not words:
            held[k] = _finite(name, column.title, cell, where(k))
        elif cell in words:
            held[k] = words[cell]
        else:
            raise DataError(f"{name}: {unknown(f'word of {column.title}{where(k)}', cell, words)}")
    return Raw(column.title, held)


def _finite(name: str, title: str, cell: str, where: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(cell)
        if abs(value) <= LARGEST:
            return value
    raise DataError(f"{name}: {title} is {cell!r}{where}, but it must be a finite number.")
