"""Tables of one's own in CSV files: numeric columns, and one column of classes if it is named."""

import csv
from pathlib import Path

import numpy

from pushforward.data.arrays import divided
from pushforward.data.dataset import Dataset
from pushforward.errors import DataError, UserError
from pushforward.registry import unknown

Rows = list[tuple[int, list[str]]]  # (line of the file, cells)


def read_csv(
    path: Path, split: str, seed: int, *, label: str | int | None = None, delimiter: str = ",", levels: int | None = None
) -> Dataset:
    """Return one split of a CSV file, each row an example and each column but the label a feature.

    The first row is a header when it holds the label's name or none of its cells is a number.

    Args:
        path: the file, in UTF-8.
        split: "train", "validation" or "test" of a seeded 80/10/10 permutation, stratified when there are labels.
        seed: seed of the permutation.
        label: name of the column of classes, or its number from 0 (negative from the end); by default there are no classes. Its
            distinct values, sorted as numbers if they all are integers and as text otherwise, are numbered from 0.
        delimiter: what stands between two cells.
        levels: number of values a coordinate can take; None for continuous data.

    Raises:
        DataError: a cell is empty or no number, a row is shorter or longer than the first (row and column are named, rows counted
            as lines of the file from 1), or there are
            too few rows to split.
        UserError: `label` is no column.
    """
    if len(delimiter) != 1:
        raise UserError(f"delimiter is {delimiter!r}, but must be one character, such as ',' or ';'.")
    rows = _rows(path, delimiter)
    if not rows:
        raise DataError(f"{path} has no rows; a table needs at least 10.")
    first = [cell.strip() for cell in rows[0][1]]
    has_header = (label is not None and str(label) in first) or not any(_is_number(cell) for cell in first)
    columns = first if has_header else [str(number) for number in range(len(first))]
    rows = rows[1:] if has_header else rows
    for line, cells in rows:
        if len(cells) != len(columns):
            raise DataError(f"{path}: row {line} has {len(cells)} cells, but the table has {len(columns)} columns; mend this row.")
    place = None if label is None else _place(path, label, columns)
    features = [number for number in range(len(columns)) if number != place]
    x = numpy.array([[_number(path, line, columns[j], cells[j]) for j in features] for line, cells in rows], dtype=numpy.float64)
    labels = None if place is None else _labels([cells[place].strip() for _, cells in rows])
    return divided(path.name, x.reshape(len(rows), len(features)), labels, split, seed, levels=levels)


def _rows(path: Path, delimiter: str) -> Rows:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            reader = csv.reader(file, delimiter=delimiter)
            return [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 (byte {error.start}); save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from None


def _place(path: Path, label: str | int, columns: list[str]) -> int:
    if str(label) in columns:
        return columns.index(str(label))
    try:
        return range(len(columns))[int(label)]
    except (ValueError, IndexError):
        raise UserError(f"{path}: label: {unknown('column', str(label), columns)}") from None


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
            "fill it in, or remove the row" if not cell.strip() else f"remove the column, or name it by label={column!r} if it is the class"
        )
        raise DataError(f"{path}: row {line}, column {column!r} is {what}, but a feature must be a number; {hint}.") from None


def _labels(cells: list[str]) -> numpy.ndarray:
    try:
        numbers = [int(cell) for cell in cells]
    except ValueError:
        return numpy.array(cells, dtype=str)
    ranks = {value: rank for rank, value in enumerate(sorted(set(numbers)))}
    return numpy.array([ranks[value] for value in numbers], dtype=numpy.int64)
