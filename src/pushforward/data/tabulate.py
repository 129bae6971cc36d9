"""From the columns of a table, as a file or a DataFrame has them, to features, labels and their schema."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy

from pushforward.data.inference import category, mark, numeric
from pushforward.data.raw import Raw, refuse_unreadable
from pushforward.errors import DataError, UserError
from pushforward.registry import unknown
from pushforward.schema import Column, Schema, Word

Missing = Literal["refuse", "drop", "model"]
Scales = Mapping[str, str] | Sequence[str] | None

MANY = 50  # rows in which integers that are all different are no coincidence


@dataclass(frozen=True)
class Table:
    """Features x (N, d) in float64, class numbers (N,) or None, and what they are."""

    x: numpy.ndarray
    labels: numpy.ndarray | None
    schema: Schema


def tabulated(
    name: str,
    columns: Sequence[Raw],
    *,
    label: str | None = None,
    accepted: Sequence[str] = (),
    missing: Missing = "refuse",
    scales: Scales = (),
    levels: int | None = None,
    seed: int = 0,
    exclude: Sequence[str] | None = None,
    row: Callable[[int], str] = lambda k: f"row {k} (counted from 0)",
) -> Table:
    """Return features, labels and schema of a table, read from all of its rows.

    Args:
        name: what messages call the table.
        columns: its columns.
        label: the column of classes.
        accepted: categories that may have any number of words, as they were named by the user.
        missing: "refuse" missing values, "drop" rows with some, or "model" them: a category gets one more word, any other column is
            filled with random values of its own, and a further feature marks where.
        scales: scales of columns in place of the chosen ones, by name, or as texts "column=scale".
        levels: number of values of columns of numbers, None to see by the values.
        seed: seed of the filled values.
        exclude: columns that are left out, None for a source without this option.
        row: what messages call a row.

    Raises:
        DataError: missing values are refused, or a column is of dates, free text, or nothing.
        UserError: an option is none of those allowed.
    """
    if missing not in get_args(Missing):
        raise UserError(f"missing: {unknown('way to treat missing values', str(missing), get_args(Missing))}")
    if label is not None and label in (exclude or ()):
        raise UserError(f"{name}: column {label!r} is both label and excluded; use one of the two.")
    columns = [one for one in columns if one.title not in (exclude or ())]
    wanted = _scales(name, scales, columns)
    if not columns or not len(columns[0].values):
        raise DataError(f"{name} has no values; a table needs at least one row and one column.")
    refuse_unreadable(name, columns, label, accepted, missing == "model", row, exclude is not None)
    columns = _without_missing(name, columns, label, missing, row)
    if missing == "drop":  # which may leave one value of a column
        refuse_unreadable(name, columns, label, accepted, False, row, exclude is not None)
    features: list[tuple[Column, numpy.ndarray]] = []
    marks: list[tuple[Column, numpy.ndarray]] = []
    labels: numpy.ndarray | None = None
    target: Column | None = None
    for k, one in enumerate(columns):
        if one.title == label:
            target = Column(one.title, "category", words=ordered_words(name, one))
            labels = encoded(name, one, target, row).astype(numpy.int64)
        elif one.values.dtype == object:
            column = category(one.title, ordered_words(name, one))
            features.append((column, encoded(name, one, column, row)))
        else:
            held, gaps = one.values, one.missing
            if gaps.any():
                random = numpy.random.RandomState([seed, k])
                held = numpy.where(gaps, random.choice(held[~gaps], len(held)), held)
                marks.append((mark(one.title), gaps.astype(numpy.float64)))
            features.append((_number(one.title, held, wanted.get(one.title), levels), held))
    if exclude is not None:
        _warn_of_identifiers(name, features)
    place = None if label is None else [one.title for one in columns].index(label)
    return _stacked(name, [*features, *marks], labels, target, place)


def _warn_of_identifiers(name: str, features: Sequence[tuple[Column, numpy.ndarray]]) -> None:
    """Warn of columns of integers that differ in every row of many, such as the number of a row or a customer."""
    for column, values in features:
        if column.kind == "integer" and len(values) >= MANY and len(numpy.unique(values)) == len(values):
            title = column.title
            warnings.warn(
                f"{name}: column {title!r} has another integer in every row; leave it out (exclude={title!r}) if it identifies rows.",
                stacklevel=4,
            )


def by_schema(name: str, columns: Sequence[Raw], schema: Schema, row: Callable[[int], str] | None = None) -> Table:
    """Return a further table, such as a test set, as the features of a schema; labels are None if it has no such column.

    Raises:
        DataError: a column is missing, has a word that is not one of the schema's, or a missing value that was not modelled.
    """
    row = row or (lambda k: f"row {k} (counted from 0)")
    known = {one.title: one for one in columns}
    marked = {one.of for one in schema.columns if one.kind == "missing"}
    features: list[tuple[Column, numpy.ndarray]] = []
    for k, column in enumerate(schema.columns):
        title = column.of if column.kind == "missing" else column.title
        if title not in known:
            raise DataError(f"{name} has no column {title!r}, which the schema has; it has {', '.join(known)}.")
        raw = known[title]
        if raw.problem:
            raise DataError(f"{name}: column {title!r} {raw.problem}.")
        gaps = raw.missing
        if column.kind == "missing":
            features.append((column, gaps.astype(numpy.float64)))
            continue
        if column.kind == "category":
            features.append((column, encoded(name, raw, column, row)))
            continue
        if raw.values.dtype == object:
            raise DataError(f"{name}: column {title!r} holds words, but it is {column.kind} in the schema; convert it.")
        if gaps.any() and title not in marked:
            _refuse_missing(name, {str(title): gaps}, row)
        random = numpy.random.RandomState([0, k])
        fill = raw.values[~gaps] if not gaps.all() else numpy.array([column.low or 0.0])
        features.append((column, numpy.where(gaps, random.choice(fill, len(gaps)), raw.values)))
    labels = None
    if schema.label is not None and schema.label.title in known:
        labels = encoded(name, known[schema.label.title], schema.label, row).astype(numpy.int64)
    return Table(numpy.column_stack([values for _, values in features]), labels, schema)


def ordered_words(name: str, raw: Raw) -> tuple[Word, ...]:
    """Return the distinct values of a column, sorted by size if all are integers and as text otherwise; missing is the last."""
    if raw.values.dtype != object:
        values = raw.values[~raw.missing]
        if not (values == numpy.rint(values)).all():
            raise DataError(f"{name}: column {raw.title!r} holds real numbers, but classes are integers or words; convert them first.")
        words: list[Word] = [int(one) for one in numpy.unique(values)]
    else:
        distinct = {(type(one), one): one for one in raw.values if one is not None}  # True is not 1
        words = list(raw.order or sorted(distinct.values(), key=_key(list(distinct.values()))))
    return (*words, None) if raw.missing.any() else tuple(words)


def encoded(name: str, raw: Raw, column: Column, row: Callable[[int], str]) -> numpy.ndarray:
    """Return a column's values as the numbers of a category, float64 (N,)."""
    numbers = {(type(word), word): float(k) for k, word in enumerate(column.words)}
    values = raw.values
    if values.dtype != object:
        values = numpy.array([None if one != one else int(one) if one == int(one) else one for one in values.tolist()], dtype=object)
    found = [numbers.get((type(one), one)) for one in values]
    if None in found:
        k = found.index(None)
        what = "is missing" if values[k] is None else f"is {values[k]!r}"
        words = ", ".join(repr(word) for word in column.words[:10]) + (", ..." if len(column.words) > 10 else "")
        raise DataError(f"{name}: {row(k)}, column {raw.title!r} {what}, but it is one of {words} in the schema.")
    return numpy.array(found, dtype=numpy.float64)


def _key(words: list[Word]) -> Callable[[Word], Any]:
    numbers = all(isinstance(word, int) or (isinstance(word, str) and word.lstrip("+-").isdecimal()) for word in words)
    return (lambda word: int(word or 0)) if numbers else str


def _number(title: str, values: numpy.ndarray, scale: str | None, levels: int | None) -> Column:
    if levels is None or scale is not None:
        return numeric(title, values, scale)
    return Column(title, "integer", low=0, high=levels - 1, dequantised=True)


def _scales(name: str, scales: Scales, columns: Sequence[Raw]) -> dict[str, str]:
    if isinstance(scales, str):
        scales = [scales]
    if scales is None:
        return {}
    pairs = scales.items() if isinstance(scales, Mapping) else [one.rpartition("=")[::2] for one in scales]
    wanted = {str(title): str(scale) for title, scale in pairs}
    known = {one.title: one for one in columns}
    for title in wanted:
        if title not in known:
            raise UserError(f"{name}: scales: {unknown('column', title, known)}")
        if known[title].values.dtype == object:
            raise UserError(f"{name}: scales: column {title!r} holds words, which have no scale; leave it out.")
    return wanted


def _without_missing(name: str, columns: Sequence[Raw], label: str | None, missing: Missing, row: Callable[[int], str]) -> Sequence[Raw]:
    """Return the columns without the rows that have missing values, or as they are if these are modelled; or refuse."""
    gaps = {one.title: one.missing for one in columns if one.missing.any()}
    if missing == "model":
        gaps = {title: one for title, one in gaps.items() if title == label}
    if not gaps:
        return columns
    if missing != "drop":
        _refuse_missing(name, gaps, row, of_label=missing == "model")
    kept = ~numpy.logical_or.reduce(list(gaps.values()))
    if not kept.any():
        raise DataError(f"{name}: every row has a missing value, so missing='drop' leaves none; use missing='model', or remove a column.")
    return [one.rows(kept) for one in columns]


def _refuse_missing(name: str, gaps: Mapping[str, numpy.ndarray], row: Callable[[int], str], of_label: bool = False) -> None:
    counts = ", ".join(f"{title!r} {int(one.sum())}" for title, one in gaps.items())
    every = numpy.logical_or.reduce(list(gaps.values()))
    choice = "missing='drop' to leave these rows out" + ("" if of_label else ", or missing='model' to learn which are missing")
    raise DataError(
        f"{name}: {int(every.sum())} of {len(every)} rows have missing values, by column: {counts} (first in {row(int(every.argmax()))}); "
        f"fill them in, or give {choice}."
    )


def _stacked(
    name: str, features: Sequence[tuple[Column, numpy.ndarray]], labels: numpy.ndarray | None, label: Column | None, place: int | None
) -> Table:
    if not features:
        raise DataError(f"{name} has no values: it has no column but the label; a table needs at least one feature.")
    schema = Schema(tuple(column for column, _ in features), label, place)
    return Table(numpy.column_stack([values for _, values in features]), labels, schema)
