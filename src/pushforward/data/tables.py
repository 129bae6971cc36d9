"""User tables in CSV files: numeric columns, and optionally categorical columns and one label column."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy

from pushforward.data.arrays import divided
from pushforward.data.dataset import Dataset
from pushforward.errors import DataError, UserError
from pushforward.registry import unknown
from pushforward.schema import Column

Rows = list[tuple[int, list[str]]]  # (line of the file, cells)


def read_csv(
    path: Path,
    split: str,
    seed: int,
    *,
    label: str | int | None = None,
    categorical: str | int | Sequence[str | int] = (),
    delimiter: str = ",",
    levels: int | None = None,
) -> Dataset:
    """Return one split of a CSV file: each row is an example, each column except the label is a feature.

    The first row is a header if it contains the name of the label or of a categorical column, or if none of its cells is a number. A
    categorical column is encoded as integer levels, the others are unchanged: `levels` of the set is then a tuple, and `categories`
    holds the strings.

    Args:
        path: the file, in UTF-8.
        split: "train", "validation" or "test" of a seeded 80/10/10 permutation, stratified when there are labels.
        seed: seed of the permutation.
        label: name of the column of classes, or its number from 0 (negative from the end); by default there are no classes. Its
            distinct values are numbered from 0, sorted numerically if all are integers and as text otherwise.
        categorical: name or number of a categorical column (colours, places), or several. Its distinct values are numbered like those
            of a label, over the whole file, so that all splits agree.
        delimiter: separator between cells.
        levels: number of values of the non-categorical coordinates; None for continuous data.

    Raises:
        DataError: a cell is empty or not a number, a row is shorter or longer than the first (with row and column; rows are lines of the
            file, counted from 1), a categorical column has only one value, or there are too few rows to split.
        UserError: `label` or `categorical` is not a column, or a column is both.
    """
    if len(delimiter) != 1:
        raise UserError(f"delimiter is {delimiter!r}, but must be one character, such as ',' or ';'.")
    rows = _rows(path, delimiter)
    if not rows:
        raise DataError(f"{path} has no rows; a table needs at least 10.")
    first = [cell.strip() for cell in rows[0][1]]
    named = [categorical] if isinstance(categorical, str | int) else list(categorical)
    has_header = any(str(one) in first for one in (named if label is None else [*named, label])) or not any(
        _is_number(cell) for cell in first
    )
    columns = first if has_header else [str(number) for number in range(len(first))]
    rows = rows[1:] if has_header else rows
    for line, cells in rows:
        if len(cells) != len(columns):
            raise DataError(f"{path}: row {line} has {len(cells)} cells, but the table has {len(columns)} columns; fix this row.")
    place = None if label is None else _place(path, "label", label, columns)
    words = {_place(path, "categorical", one, columns) for one in named}
    if place in words:
        raise UserError(f"{path}: column {columns[place]!r} is both label and categorical; use one of the two.")
    features = [number for number in range(len(columns)) if number != place]
    x = numpy.empty((len(rows), len(features)))
    categories: dict[str, list[str]] = {}
    for feature, j in enumerate(features):
        if j in words:
            x[:, feature], categories[columns[j]] = _codes(path, columns[j], rows, j)
        else:
            x[:, feature] = [_number(path, line, columns[j], cells[j]) for line, cells in rows]
    each = [len(categories[columns[j]]) if j in words else levels for j in features]
    names = [columns[j] for j in features]
    levels_of = each if words else levels
    if place is None:
        return divided(path.name, x, None, split, seed, levels=levels_of, columns=names, categories=categories)
    cells = [cells[place].strip() for _, cells in rows]
    column = Column(columns[place], "category", words=tuple(_distinct(cells)))
    return divided(
        path.name, x, _labels(cells), split, seed, levels=levels_of, columns=names, categories=categories, label=column, place=place
    )


def _rows(path: Path, delimiter: str) -> Rows:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            reader = csv.reader(file, delimiter=delimiter)
            return [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from None


def _place(path: Path, option: str, label: str | int, columns: list[str]) -> int:
    if str(label) in columns:
        return columns.index(str(label))
    try:
        return range(len(columns))[int(label)]
    except (ValueError, IndexError):
        raise UserError(f"{path}: {option}: {unknown('column', str(label), columns)}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        what = repr(cell) if cell.strip() else "empty"
        hint = (
            "fill it in, or remove the row"
            if not cell.strip()
            else f"use label={column!r} if it is the class, categorical={column!r} if it is categorical, or remove it"
        )
        raise DataError(f"{path}: row {line}, column {column!r} is {what}, but a feature must be a number; {hint}.") from None


def _codes(path: Path, column: str, rows: Rows, place: int) -> tuple[numpy.ndarray, list[str]]:
    """Return a column's values as integers from 0, and the values they stand for."""
    values = [cells[place].strip() for _, cells in rows]
    if "" in values:
        line = rows[values.index("")][0]
        raise DataError(f"{path}: row {line}, column {column!r} is empty, but a category needs a value; fill it in, or remove the row.")
    ranks = _ranks(values)
    if len(set(ranks.values())) < 2:
        raise DataError(f"{path}: column {column!r} is {values[0]!r} in every row, but a category needs at least 2; remove the column.")
    return numpy.array([ranks[value] for value in values]), [word for word, _ in sorted(ranks.items(), key=lambda one: one[1])]


def _distinct(values: list[str]) -> list[str]:
    """Return the distinct values, in numerical order if all are integers and in text order otherwise."""
    distinct = set(values)
    numbers = all(value.lstrip("+-").isdecimal() for value in distinct)
    return sorted(distinct, key=int if numbers else str)


def _ranks(values: list[str]) -> dict[str, int]:
    return {value: rank for rank, value in enumerate(_distinct(values))}


def _labels(cells: list[str]) -> numpy.ndarray:
    """Return strings unchanged, and integers replaced by their rank."""
    try:
        numbers = [int(cell) for cell in cells]
    except ValueError:
        return numpy.array(cells, dtype=str)
    ranks = {value: rank for rank, value in enumerate(sorted(set(numbers)))}
    return numpy.array([ranks[value] for value in numbers], dtype=numpy.int64)
