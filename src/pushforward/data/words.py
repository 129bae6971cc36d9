"""Categories: the words of a column, and their numbers."""

from collections.abc import Callable
from typing import Any

import numpy

from pushforward.column import Column, Word
from pushforward.data.raw import Raw
from pushforward.errors import DataError


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
