"""The columns of a table as a file or a DataFrame has them, and which of them cannot be read."""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy

from pushforward.column import Word
from pushforward.errors import DataError, UserError
from pushforward.registry import unknown

Names = str | int | Sequence[str | int] | None

DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})([T ]\d{1,2}:\d{2}.*)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
FEW = 20  # words that a category may always have
EXPLAINED = 5  # columns whose problem is stated, of many
LARGEST, SMALLEST = float(numpy.finfo(numpy.float32).max), float(numpy.finfo(numpy.float32).tiny)
EXACT = 2.0**53  # integers up to here are exact in float64


@dataclass(frozen=True)
class Raw:
    """A column as its source has it.

    Args:
        title: its name.
        values: float64 (N,) with NaN where a value is missing, or words (N,) as objects with None where one is missing.
        order: the words in an order of their own, None to sort them.
        problem: what is wrong with it and what to do, if it cannot be read.
    """

    title: str
    values: numpy.ndarray
    order: tuple[Word, ...] | None = None
    problem: str = ""

    @property
    def missing(self) -> numpy.ndarray:
        """Where values are missing (N,)."""
        if self.values.dtype == object:
            return numpy.array([one is None for one in self.values], dtype=bool)
        return numpy.isnan(self.values)

    def rows(self, chosen: numpy.ndarray) -> "Raw":
        """Return the column of these rows."""
        return replace(self, values=self.values[chosen])


def unreadable(title: str, count: int, problem: str) -> Raw:
    """Return a column of this many rows that cannot be read."""
    return Raw(title, numpy.full(count, numpy.nan), problem=problem)


def numbers_of(title: str, values: numpy.ndarray, exact: Iterable[int | float]) -> Raw:
    """Return a column of numbers, which cannot be read if some of its exact values are equal in float64.

    Args:
        title: its name.
        values: float64 (N,), NaN where a value is missing.
        exact: the values that are not missing, as their source has them.
    """
    distinct = set(exact)
    if len(distinct) == len(numpy.unique(values[~numpy.isnan(values)])):
        return Raw(title, values)
    least = min(distinct)
    return unreadable(
        title, len(values), f"holds integers beyond 2^53, such as {max(distinct, key=abs)}, some of which are equal in float64; subtract "
        f"{least} from it first, or give it as text if it identifies rows",
    )  # fmt: skip


def check_titles(name: str, titles: Iterable[Hashable]) -> None:
    """Raise unless columns have names of their own, so that none takes the place of another.

    Raises:
        DataError: two have the same.
    """
    seen: set[Hashable] = set()
    for title in titles:
        if title in seen:
            raise DataError(f"{name} has two columns {title!r}, but each needs a name of its own; rename one.")
        seen.add(title)


def by_title(name: str, columns: Sequence[Raw]) -> dict[str, Raw]:
    """Return columns by their names.

    Raises:
        DataError: two have the same.
    """
    check_titles(name, (one.title for one in columns))
    return {one.title: one for one in columns}


def names_of(name: str, option: str, chosen: Names, titles: Sequence[str], numbered: bool = False) -> list[str]:
    """Return the columns that an option names: one, several, or none.

    Args:
        name: what messages call the table.
        option: the option.
        chosen: its value.
        titles: the columns' names.
        numbered: whether a number that is no name counts columns from 0, or from the end if it is negative.

    Raises:
        UserError: there is no such column.
    """
    found = []
    for one in [] if chosen is None else [chosen] if isinstance(chosen, str | int) else list(chosen):
        title = str(one)
        if title not in titles and numbered and re.fullmatch(r"-?\d+", title) and -len(titles) <= int(title) < len(titles):
            title = titles[int(title)]
        if title not in titles:
            raise UserError(f"{name}: {option}: {unknown('column', title, titles)}")
        found.append(title)
    return found


def refuse_unreadable(
    name: str, columns: Sequence[Raw], label: str | None, given: Sequence[str], accepted: Sequence[str], gaps: bool,
    row: Callable[[int], str], option: bool,
) -> None:  # fmt: skip
    """Raise if columns cannot be read, with all of them in the message.

    Args:
        name: what messages call the table.
        columns: its columns.
        label: the column of classes.
        given: the columns of conditions.
        accepted: categories that may have any number of words.
        gaps: whether missing values are modelled.
        row: what messages call a row.
        option: whether the source has an option `exclude`.

    Raises:
        DataError: some are dates, free text, mixed, constant, infinite or empty.
    """
    found = {one.title: why for one in columns if (why := _problem(one, label, given, accepted, gaps, row))}
    if not found:
        return
    titles = list(found)
    if len(found) == 1:
        why = found[titles[0]]
        leave = f"leave it out (exclude={titles[0]!r})" if option else "remove it"
        raise DataError(f"{name}: column {titles[0]!r} {why}{', or' if ';' in why else ';'} {leave}.")
    stated = "; ".join(f"{title!r} {found[title].partition(';')[0]}" for title in titles[:EXPLAINED])
    more = f"; and {len(found) - EXPLAINED} more" if len(found) > EXPLAINED else ""
    leave = f"leave them out (exclude={titles})" if option else f"remove them ({', '.join(map(repr, titles))})"
    raise DataError(f"{name}: {len(found)} columns cannot be read: {stated}{more}; convert them, or {leave}.")


def _problem(raw: Raw, label: str | None, given: Sequence[str], accepted: Sequence[str], gaps: bool, row: Callable[[int], str]) -> str:
    """Return what is wrong with a column and what to do, nothing if it can be read."""
    if raw.problem:
        return raw.problem
    present = raw.values[~raw.missing]
    if len(present) == 0:
        return "has no values"
    distinct = set(present.tolist())
    if raw.title == label:
        few = raw.order is not None or len(distinct) <= max(FEW, len(present) // 2)
        return "" if few else f"has {len(distinct)} different values in {len(present)} rows, which are no classes; choose another label"
    if raw.title in given and len(distinct) == 1:
        return f"is {present.tolist()[0]!r} in every row, so that nothing depends on it"
    if raw.values.dtype != object:
        return _problem_of_numbers(present, raw, row)
    if len(distinct) == 1 and raw.order is None and not (gaps and raw.missing.any()):
        return f"is {present[0]!r} in every row, but a category needs at least 2 words"
    return "" if raw.title in accepted else _problem_of_words(raw.title, present, len(distinct))


def _problem_of_numbers(present: numpy.ndarray, raw: Raw, row: Callable[[int], str]) -> str:
    wrong = numpy.abs(raw.values) > LARGEST
    if wrong.any():
        first = int(wrong.argmax())
        what = "infinite" if numpy.isinf(raw.values[first]) else f"{raw.values[first]:g}, beyond the range of float32,"
        return f"is {what} in {row(first)} ({int(wrong.sum())} of {len(wrong)} rows); replace these values, such as by empty ones"
    largest = float(numpy.abs(present).max())
    if 0 < largest < SMALLEST:
        return f"has values up to {largest:g}, below the range of float32; multiply it by a constant"
    if present[0] != numpy.rint(present[0]) and (present == present[0]).all():
        return f"is {present[0]:g} in every row, and the density of a constant has no bound"
    return ""


def _problem_of_words(title: str, present: numpy.ndarray, count: int) -> str:
    if all(isinstance(one, str) and DATE.fullmatch(one) for one in present):
        return f"holds dates, such as {present[0]!r}; convert it to numbers, such as days"
    if all(isinstance(one, str) and DECIMAL_COMMA.fullmatch(one) for one in present):
        return f"holds numbers with a decimal comma, such as {present[0]!r}; write them with a point"
    if count > max(FEW, len(present) // 2):
        return (
            f"has {count} different words in {len(present)} rows, such as {present[0]!r}, so it is free text, names, or numbers as text; "
            f"convert it, give categorical={title!r} if it is a category"
        )
    return ""
