"""User tables in CSV files: columns of numbers and of words, and optionally one label column."""

import csv
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy

from pushforward._files import regular
from pushforward._memory import check_room
from pushforward.data.arrays import split_of
from pushforward.data.dataset import Dataset
from pushforward.data.raw import EXACT, Names, Raw, check_titles, names_of, numbers_of, unreadable
from pushforward.data.tabulate import Missing, Scales, tabulated
from pushforward.errors import DataError, UserError

Rows = list[tuple[int, list[str]]]  # (line of the file, cells)
CELLS = 8  # bytes in memory for each of a file, as cells are text first
MISSING = {"", "na", "n/a", "nan", "null", "none"}  # of a column of numbers; in one of words only an empty cell is missing
WHOLE = re.compile(r"[+-]?\d+")
CODE = re.compile(r"[+-]?0\d+")  # such as 007, 01234 or -01


def read_csv(
    path: Path,
    split: str,
    seed: int,
    *,
    label: str | int | None = None,
    given: Names = (),
    categorical: Names = (),
    delimiter: str = ",",
    levels: int | None = None,
    missing: Missing = "refuse",
    scales: Scales = (),
    exclude: Names = (),
) -> Dataset:
    """Return one split of a CSV file: each row is an example, each column except the label is a feature.

    The first row is a header if it contains the name of the label or of a categorical column, or if none of its cells is a number, or if
    it numbers the columns from 0. A first column without a name that numbers the rows is an index, which is left out with a warning. A
    column of words, or of codes with leading zeros such as 01234, is a category, encoded as integer levels; a column of integers has unit
    cells; the others are continuous. `schema` of the set describes them.

    Args:
        path: the file, in UTF-8.
        split: "train", "validation" or "test" of a seeded 80/10/10 permutation, stratified when there are labels.
        seed: seed of the permutation.
        label: name of the column of classes, or its number from 0 (negative from the end); by default there are no classes. Its
            distinct values are numbered from 0, sorted numerically if all are integers and as text otherwise.
        given: name or number of a column, or several, that the others are conditional on: they become `cond`, vectors of numbers as they
            are and of one entry for each word of a category.
        categorical: name or number of a column, or several, that is a category though its cells are numbers, or however many different
            words it has. Values are numbered like those of a label, over the whole file, so that all splits agree.
        delimiter: separator between cells.
        levels: number of values of the non-categorical coordinates; by default those of integers are their range.
        missing: "refuse" empty cells, "drop" their rows, or "model" them as missing values of their own.
        scales: scales of columns of numbers that take the place of the chosen ones, "column=log" or a mapping: none, log, logit, quantile.
        exclude: name or number of a column, or several, that is left out.

    Raises:
        DataError: values are missing and refused; a column of numbers holds a word, a row is shorter or longer than the first (with row and
            column; rows are lines of the file, counted from 1); a column holds dates or free text, or a category one value; or there
            are too few rows to split.
        UserError: `label`, `given`, `categorical` or `exclude` is not a column, or a column is both, or all are given.
    """
    if len(delimiter) != 1:
        raise UserError(f"delimiter is {delimiter!r}, but must be one character, such as ',' or ';'.")
    rows = _rows(path, delimiter)
    if not rows:
        raise DataError(f"{path} has no rows; a table needs at least 10.")
    first = [cell.strip() for cell in rows[0][1]]
    _check_delimiter(path, rows, delimiter)
    named = {str(one) for chosen in (categorical, exclude, given, label) for one in _listed(chosen)}
    has_header = not named.isdisjoint(first) or not any(map(_is_number, first)) or _is_numbered(first, rows[1:])
    titles = first if has_header else [str(number) for number in range(len(first))]
    rows = rows[1:] if has_header else rows
    _check_lengths(path, rows, titles)
    words, left_out, known, labels = (
        names_of(str(path), option, chosen, titles, numbered=True)
        for option, chosen in (("categorical", categorical), ("exclude", exclude), ("given", given), ("label", label))
    )
    target = labels[0] if labels else None
    if target in words:
        raise UserError(f"{path}: column {target!r} is both label and categorical; use one of the two.")
    columns = [_column(title, rows, place, title in words, title == target) for place, title in enumerate(titles)]
    if _is_index(columns[0]) and named.isdisjoint({titles[0], "0", str(-len(titles))}):
        warnings.warn(
            f"{path}: the first column has no name and numbers the rows, so it is left out as an index; give it a name to read it.",
            stacklevel=2,
        )
        columns = columns[1:]
    table = tabulated(
        path.name, columns, label=target, given=known, accepted=words, missing=missing, scales=scales, levels=levels, seed=seed,
        exclude=left_out, row=lambda k: f"row {rows[k][0]}",
    )  # fmt: skip
    return split_of(path.name, table, split, seed)


def _rows(path: Path, delimiter: str) -> Rows:
    try:
        check_room(str(path), CELLS * regular(path, DataError).stat().st_size, "give a file of fewer rows, or a .parquet or .npy file")
        with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            reader = csv.reader(file, delimiter=delimiter)
            return [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV ({error}).") from None


def cells_of_csv(path: Path, delimiter: str = ",") -> tuple[dict[str, list[str]], list[int]]:
    """Return the cells of a CSV file with a header by the columns' names, and the line of the file that each row is in.

    Raises:
        DataError: it cannot be read, has no rows, or a row has another number of cells than the header.
    """
    rows = _rows(path, delimiter)
    if len(rows) < 2:
        raise DataError(f"{path} has no rows below a header; give one row for each condition.")
    titles = [cell.strip() for cell in rows[0][1]]
    _check_delimiter(path, rows, delimiter)
    _check_lengths(path, rows[1:], titles)
    check_titles(str(path), titles)
    return {title: [cells[k] for _, cells in rows[1:]] for k, title in enumerate(titles)}, [line for line, _ in rows[1:]]


def _check_lengths(path: Path, rows: Rows, titles: Sequence[str]) -> None:
    for line, cells in rows:
        if len(cells) != len(titles):
            raise DataError(f"{path}: row {line} has {len(cells)} cells, but the table has {len(titles)} columns; fix this row.")


def _listed(chosen: Names) -> list[str | int]:
    return [] if chosen is None else [chosen] if isinstance(chosen, str | int) else list(chosen)


def _check_delimiter(path: Path, rows: Rows, delimiter: str) -> None:
    """Raise if another character than the delimiter divides the first rows into as many cells each, where the delimiter does not."""
    texts = [delimiter.join(cells) for _, cells in rows[:5]]
    if len({len(cells) for _, cells in rows[:5]}) == 1 and len(rows[0][1]) > 1:
        return
    for other in ",;\t|":
        counts = {text.count(other) for text in texts}
        if other != delimiter and len(counts) == 1 and counts != {0}:
            raise DataError(f"{path} has cells that are separated by {other!r}, not {delimiter!r}; give delimiter={other!r}.")


def _is_numbered(first: Sequence[str], others: Rows) -> bool:
    """Return whether a row of numbers is a header that numbers the columns, as pandas writes it; two integers may be a row, too."""
    numbers = first[1:] if first[0] == "" else first
    if list(numbers) != [str(number) for number in range(len(numbers))]:
        return False
    return len(numbers) > 2 or not all(cell.strip().lstrip("+-").isdecimal() for _, cells in others for cell in cells if cell)


def _is_index(raw: Raw) -> bool:
    """Return whether a column without a name numbers the rows from 0 or 1, as pandas writes an index."""
    if not (raw.title == "" or re.fullmatch(r"Unnamed: \d+", raw.title)) or raw.values.dtype == object:
        return False
    return bool(raw.values[0] in (0, 1) and (numpy.diff(raw.values) == 1).all())


def _is_number(cell: str) -> bool:
    if "_" in cell:  # float also reads 2024_01, which is a word
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _as_integer(cell: str) -> str:
    """Return 1.0, as pandas writes integers of which some are missing, as 1: the same class, which `--label 1` finds."""
    value = float(cell) if _is_number(cell) and not WHOLE.fullmatch(cell) else math.nan
    return str(int(value)) if abs(value) <= EXACT and value.is_integer() else cell


def _column(title: str, rows: Rows, place: int, category: bool, label: bool) -> Raw:
    """Return a column of numbers if any cell is one, and one of words otherwise, or where it is a category, codes or the label."""
    cells = [cells[place].strip() for _, cells in rows]
    present = [cell for cell in cells if cell.lower() not in MISSING]
    numbers = [_is_number(cell) for cell in present]
    if label and numbers and all(numbers) and not all(float(cell).is_integer() for cell in present):
        return unreadable(title, len(cells), "holds real numbers, but classes are integers or words; convert them, choose another label")
    if (category or label) and all(numbers) and all(float(cell).is_integer() for cell in present):
        cells = [_as_integer(cell) for cell in cells]
    codes = all(numbers) and any(CODE.fullmatch(cell) for cell in present)  # as a number, 007 would come back as 7
    if category or label or codes or not any(numbers):
        held = numpy.empty(len(cells), dtype=object)
        held[:] = [None if not cell or (codes and cell.lower() in MISSING) else cell for cell in cells]
        return Raw(title, held)
    if not all(numbers):
        wrong = next(k for k, cell in enumerate(cells) if not _is_number(cell) and cell.lower() not in MISSING)
        problem = (
            f"is {cells[wrong]!r} in row {rows[wrong][0]}, but a feature must be a number where others are; use label={title!r} if it is "
            f"the class, categorical={title!r} if it is categorical"
        )
        return unreadable(title, len(cells), problem)
    values = numpy.array([math.nan if cell.lower() in MISSING else float(cell) for cell in cells])
    if numpy.abs(values[~numpy.isnan(values)]).max() <= EXACT:
        return Raw(title, values)
    return numbers_of(title, values, [int(cell) if WHOLE.fullmatch(cell) else float(cell) for cell in present])
