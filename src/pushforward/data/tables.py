"""User tables in CSV files: columns of numbers and of words, and optionally one label column."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy

from pushforward._files import regular
from pushforward.data.arrays import split_of
from pushforward.data.dataset import Dataset
from pushforward.data.tabulate import Missing, Names, Raw, Scales, tabulated
from pushforward.errors import DataError, UserError
from pushforward.registry import unknown

Rows = list[tuple[int, list[str]]]  # (line of the file, cells)
MISSING = {"", "na", "n/a", "nan", "null", "none"}  # of a column of numbers; in one of words only an empty cell is missing


def read_csv(
    path: Path,
    split: str,
    seed: int,
    *,
    label: str | int | None = None,
    categorical: Names = (),
    delimiter: str = ",",
    levels: int | None = None,
    missing: Missing = "refuse",
    scales: Scales = (),
) -> Dataset:
    """Return one split of a CSV file: each row is an example, each column except the label is a feature.

    The first row is a header if it contains the name of the label or of a categorical column, or if none of its cells is a number. A
    column of words is a category, encoded as integer levels; a column of integers has unit cells; the others are continuous. `schema` of
    the set describes them.

    Args:
        path: the file, in UTF-8.
        split: "train", "validation" or "test" of a seeded 80/10/10 permutation, stratified when there are labels.
        seed: seed of the permutation.
        label: name of the column of classes, or its number from 0 (negative from the end); by default there are no classes. Its
            distinct values are numbered from 0, sorted numerically if all are integers and as text otherwise.
        categorical: name or number of a column, or several, that is a category though its cells are numbers, or however many different
            words it has. Values are numbered like those of a label, over the whole file, so that all splits agree.
        delimiter: separator between cells.
        levels: number of values of the non-categorical coordinates; by default those of integers are their range.
        missing: "refuse" empty cells, "drop" their rows, or "model" them as missing values of their own.
        scales: scales of columns of numbers that take the place of the chosen ones, "column=log" or a mapping: none, log, logit, quantile.

    Raises:
        DataError: values are missing and refused; a column of numbers holds a word, a row is shorter or longer than the first (with row and
            column; rows are lines of the file, counted from 1); a column holds dates or free text, or a category one value; or there
            are too few rows to split.
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
    titles = first if has_header else [str(number) for number in range(len(first))]
    rows = rows[1:] if has_header else rows
    for line, cells in rows:
        if len(cells) != len(titles):
            raise DataError(f"{path}: row {line} has {len(cells)} cells, but the table has {len(titles)} columns; fix this row.")
    target = None if label is None else titles[_place(path, "label", label, titles)]
    words = [titles[_place(path, "categorical", one, titles)] for one in named]
    if target in words:
        raise UserError(f"{path}: column {target!r} is both label and categorical; use one of the two.")
    columns = [_column(path, title, rows, place, title == target or title in words) for place, title in enumerate(titles)]
    table = tabulated(
        path.name, columns, label=target, accepted=words, missing=missing, scales=scales, levels=levels, seed=seed,
        row=lambda k: f"row {rows[k][0]}",
    )  # fmt: skip
    return split_of(path.name, table, split, seed)


def _rows(path: Path, delimiter: str) -> Rows:
    try:
        with open(regular(path, DataError), newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            reader = csv.reader(file, delimiter=delimiter)
            return [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from None


def _place(path: Path, option: str, label: str | int, columns: Sequence[str]) -> int:
    if str(label) in columns:
        return list(columns).index(str(label))
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


def _column(path: Path, title: str, rows: Rows, place: int, words: bool) -> Raw:
    """Return a column of numbers if any cell is one, and one of words otherwise, or where words are asked for."""
    cells = [cells[place].strip() for _, cells in rows]
    present = [cell for cell in cells if cell.lower() not in MISSING]
    if words or not any(map(_is_number, present)):
        held = numpy.empty(len(cells), dtype=object)
        held[:] = [cell or None for cell in cells]
        return Raw(title, held)
    wrong = next((k for k, cell in enumerate(cells) if not _is_number(cell) and cell.lower() not in MISSING), None)
    if wrong is not None:
        raise DataError(
            f"{path}: row {rows[wrong][0]}, column {title!r} is {cells[wrong]!r}, but a feature must be a number where others "
            f"are; use label={title!r} if it is the class, categorical={title!r} if it is categorical, or remove it."
        )
    return Raw(title, numpy.array([math.nan if cell.lower() in MISSING else float(cell) for cell in cells]))
