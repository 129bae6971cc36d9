"""From the columns of a table, as a file or a DataFrame has them, to features, labels and their schema."""

import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, get_args

import numpy

from pushforward.column import Column
from pushforward.data.given_columns import columns_by_name, described_columns, encoded_columns
from pushforward.data.inference import category, mark, numeric
from pushforward.data.raw import Raw, by_title, refuse_unreadable
from pushforward.data.rounding import warn_of_rounding
from pushforward.data.words import encoded, ordered_words
from pushforward.errors import DataError, UserError
from pushforward.registry import unknown
from pushforward.schema import Schema

Missing = Literal["refuse", "drop", "model"]
Scales = Mapping[str, str] | Sequence[str] | None

MANY = 50  # rows in which integers that are all different are no coincidence


@dataclass(frozen=True)
class Table:
    """Features x (N, d) in float64, class numbers (N,) or the vectors (N, k) of given columns or None, and what they are."""

    x: numpy.ndarray
    cond: numpy.ndarray | None
    schema: Schema


def tabulated(
    name: str,
    columns: Sequence[Raw],
    *,
    label: str | None = None,
    given: Sequence[str] = (),
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
        given: the columns that the others are conditional on.
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
    _check_given(name, given, label, columns, exclude or ())
    wanted = _scales(name, scales, columns, given)
    if not columns or not len(columns[0].values):
        raise DataError(f"{name} has no values; a table needs at least one row and one column.")
    refuse_unreadable(name, columns, label, given, accepted, missing == "model", row, exclude is not None)
    columns = _without_missing(name, columns, {label, *given}, missing, row)
    if missing == "drop":  # which may leave one value of a column
        refuse_unreadable(name, columns, label, given, accepted, False, row, exclude is not None)
    features: list[tuple[Column, numpy.ndarray]] = []
    marks: list[tuple[Column, numpy.ndarray]] = []
    labels: numpy.ndarray | None = None
    target: Column | None = None
    for k, one in enumerate(columns):
        if one.title in given:
            continue
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
    known = [one for one in columns if one.title in given]
    if exclude is not None:
        _warn_of_identifiers(name, features)
        numbers = [one for one in columns if one.values.dtype != object and one.title != label]
        warn_of_rounding(name, ((f"column {one.title!r}", one.values[~one.missing]) for one in numbers))
    if not features:
        raise DataError(f"{name} has no values: it has no column but the label; a table needs at least one feature.")
    titles = [one.title for one in columns]
    place = None if label is None else titles.index(label)
    conditions = described_columns(name, known)
    both = [*features, *marks]
    schema = Schema(tuple(column for column, _ in both), target, place, conditions, tuple(titles.index(one.title) for one in conditions))
    cond = encoded_columns(name, known, conditions, row) if conditions else labels
    return Table(numpy.column_stack([values for _, values in both]), cond, schema)


def _check_given(name: str, given: Sequence[str], label: str | None, columns: Sequence[Raw], excluded: Sequence[str]) -> None:
    """Raise if given columns are something else, too, or all columns."""
    for title in given:
        if title in excluded:
            raise UserError(f"{name}: column {title!r} is both given and excluded; use one of the two.")
        if title == label:
            raise UserError(f"{name}: column {title!r} is both label and given; use one of the two.")
    if given and label is not None:
        both = [label, *given]
        raise UserError(f"{name}: label is {label!r} and given is {list(given)}, but a condition is one or the other; use given={both}.")
    if given and all(one.title in given for one in columns):
        raise UserError(f"{name}: given is {list(given)}, which are all columns; leave out those whose density is wanted.")


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
    """Return a further table, such as a test set, as the features of a schema; cond is None if it has no label column.

    Raises:
        DataError: a column is missing, also a given one, or has a word that is not one of the schema's, or a missing value that was not
            modelled.
    """
    row = row or (lambda k: f"row {k} (counted from 0)")
    known = by_title(name, columns)
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
        values = numpy.full(len(gaps), numpy.nan) if gaps.all() else raw.values  # of words or numbers: a column without values is either
        if values.dtype == object:
            raise DataError(f"{name}: column {title!r} holds words, but it is {column.kind} in the schema; convert it.")
        if gaps.any() and title not in marked:
            _refuse_missing(name, {str(title): gaps}, row, "leave these rows out, as the model or schema has no missing values there")
        random = numpy.random.RandomState([0, k])
        fill = values[~gaps] if not gaps.all() else numpy.array([column.low or 0.0])
        features.append((column, numpy.where(gaps, random.choice(fill, len(gaps)), values)))
    cond = None
    if schema.given:
        cond = encoded_columns(name, columns_by_name(name, known, schema.given), schema.given, row)
    elif schema.label is not None and schema.label.title in known:
        cond = encoded(name, known[schema.label.title], schema.label, row).astype(numpy.int64)
    return Table(numpy.column_stack([values for _, values in features]), cond, schema)


def _number(title: str, values: numpy.ndarray, scale: str | None, levels: int | None) -> Column:
    if levels is None or scale is not None:
        return numeric(title, values, scale)
    return Column(title, "integer", low=0, high=levels - 1, dequantised=True)


def _scales(name: str, scales: Scales, columns: Sequence[Raw], given: Sequence[str]) -> dict[str, str]:
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
        if title in given:
            raise UserError(f"{name}: scales: column {title!r} is given, so it has no scale; leave it out.")
    return wanted


def _without_missing(
    name: str, columns: Sequence[Raw], conditions: Set[str | None], missing: Missing, row: Callable[[int], str]
) -> Sequence[Raw]:
    """Return the columns without the rows that have missing values, or as they are if these are modelled; those of conditions never are."""
    gaps = {one.title: one.missing for one in columns if one.missing.any()}
    if missing == "model":
        gaps = {title: one for title, one in gaps.items() if title in conditions}
    if not gaps:
        return columns
    if missing != "drop":
        model = "" if missing == "model" else ", or missing='model' to learn which are missing"
        _refuse_missing(name, gaps, row, f"give missing='drop' to leave these rows out{model}")
    kept = ~numpy.logical_or.reduce(list(gaps.values()))
    if not kept.any():
        raise DataError(f"{name}: every row has a missing value, so missing='drop' leaves none; use missing='model', or remove a column.")
    return [one.rows(kept) for one in columns]


def _refuse_missing(name: str, gaps: Mapping[str, numpy.ndarray], row: Callable[[int], str], choice: str) -> None:
    counts = ", ".join(f"{title!r} {int(one.sum())}" for title, one in gaps.items())
    every = numpy.logical_or.reduce(list(gaps.values()))
    raise DataError(
        f"{name}: {int(every.sum())} of {len(every)} rows have missing values, by column: {counts} (first in {row(int(every.argmax()))}); "
        f"fill them in, or {choice}."
    )
