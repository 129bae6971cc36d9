"""User tables in memory and in .parquet files: DataFrames of pandas."""

from pathlib import Path
from typing import Any

import numpy

from pushforward._files import regular
from pushforward._memory import check_unpacked
from pushforward._pandas import pandas_for
from pushforward.data.arrays import split_of
from pushforward.data.dataset import Dataset
from pushforward.data.raw import Names, Raw, names_of
from pushforward.data.raw_frame import columns_of
from pushforward.data.tabulate import Missing, Scales, tabulated
from pushforward.errors import DamagedDataError, DataError, UserError


def read_frame(
    frame: Any,
    split: str,
    seed: int,
    *,
    label: str | int | None = None,
    given: Names = (),
    categorical: Names = (),
    missing: Missing = "refuse",
    scales: Scales = (),
    exclude: Names = (),
    name: str = "frame",
) -> Dataset:
    """Return one split of a DataFrame: each row is an example, each column except the label is a feature; the index is not read.

    Columns of text, of bool and of pandas' categories are categories, columns of integers have unit cells, the others are continuous.

    Args:
        frame: the table.
        split: "train", "validation" or "test" of a seeded 80/10/10 permutation, stratified when there are labels.
        seed: seed of the permutation.
        label: name of the column of classes; by default there are no classes.
        given: name of a column, or several, that the others are conditional on; see `read_csv`.
        categorical: name of a column, or several, that is a category though its values are numbers, or however many words it has.
        missing: "refuse" missing values, "drop" their rows, or "model" them as missing values of their own.
        scales: scales of columns of numbers that take the place of the chosen ones: {"column": "log"}.
        exclude: name of a column, or several, that is left out.
        name: what messages call the table.

    Raises:
        DataError: values are missing and refused, a column holds dates or anything else than numbers and words, a category one value, or
            there are too few rows to split.
        UserError: `label`, `given`, `categorical` or `exclude` is not a column, or a column is both, or all are given.
    """
    columns = columns_of(name, frame)
    titles = [one.title for one in columns]
    options = (("categorical", categorical), ("exclude", exclude), ("given", given))
    words, left_out, known = (names_of(name, *one, titles) for one in options)
    target = next(iter(names_of(name, "label", label, titles)), None)
    if target in words:
        raise UserError(f"{name}: column {target!r} is both label and categorical; use one of the two.")
    columns = [as_words(name, one) if one.title in words else one for one in columns]
    table = tabulated(name, columns, label=target, given=known, accepted=words, missing=missing, scales=scales, seed=seed, exclude=left_out)
    return split_of(name, table, split, seed)


def read_parquet(
    path: Path,
    split: str,
    seed: int,
    *,
    label: str | int | None = None,
    given: Names = (),
    categorical: Names = (),
    missing: Missing = "refuse",
    scales: Scales = (),
    exclude: Names = (),
) -> Dataset:
    """Return one split of a .parquet file, as `read_frame` does of a DataFrame.

    Args:
        path: the file.
        split: "train", "validation" or "test".
        seed: seed of the permutation.
        label: name of the column of classes.
        given: columns that the others are conditional on.
        categorical: name of a category of numbers, or several.
        missing: "refuse", "drop" or "model" missing values.
        scales: scales of columns of numbers that take the place of the chosen ones.
        exclude: columns that are left out.

    Raises:
        DataError: it cannot be read, or its content is invalid.
        UserError: pandas or pyarrow is not installed.
    """
    return read_frame(
        _frame_of(path), split, seed, label=label, given=given, categorical=categorical, missing=missing, scales=scales, exclude=exclude,
        name=path.name,
    )  # fmt: skip


def columns_of_parquet(path: Path) -> list[Raw]:
    """Return the columns of a .parquet file.

    Raises:
        DataError: it cannot be read.
        UserError: pandas or pyarrow is not installed.
    """
    return columns_of(path.name, _frame_of(path))


def _frame_of(path: Path) -> Any:
    pandas = pandas_for(path, parquet=True)
    try:
        _check_size(regular(path, DataError))
        return pandas.read_parquet(path)
    except DataError:
        raise
    except Exception as error:  # pyarrow's errors have several types
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise DamagedDataError(f"{path} cannot be read as a parquet file ({reason}); write it again.") from None


def _check_size(path: Path) -> None:
    """Raise if a file states too many cells or bytes: repeated values take nearly no space in it."""
    from pyarrow.parquet import read_metadata

    facts = read_metadata(path)
    stated = sum(facts.row_group(k).total_byte_size for k in range(facts.num_row_groups))
    check_unpacked(str(path), max(stated, 8 * facts.num_rows * facts.num_columns), path.stat().st_size)


def as_words(name: str, raw: Raw) -> Raw:
    """Return a column of numbers as one of integers that are words."""
    if raw.values.dtype == object or raw.problem:
        return raw
    present = raw.values[~raw.missing]
    if not (present == numpy.rint(present)).all():
        raise DataError(f"{name}: column {raw.title!r} holds real numbers, but a category needs integers or words; leave it continuous.")
    held = numpy.empty(len(raw.values), dtype=object)
    held[:] = [None if gap else int(value) for gap, value in zip(raw.missing, raw.values, strict=True)]
    return Raw(raw.title, held)
