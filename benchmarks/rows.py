"""A row of the table: one case, everybody's time, and whether the bar was reached."""

from collections.abc import Callable
from dataclasses import dataclass

OURS, FLOOR = "pushforward", "floor"


@dataclass(frozen=True)
class Row:
    """One case.

    `values` maps contenders to a number in `unit` (less is better), `ratio` is how many times better we are than the best peer, with its
    least and most over the runs, and `bar` is what was asked for, in words.
    """

    case: str
    unit: str
    values: dict[str, float]
    ratio: tuple[float, float, float]
    bar: str
    passed: bool

    def peers(self) -> dict[str, float]:
        return {name: value for name, value in self.values.items() if name not in (OURS, FLOOR)}


ROWS: dict[str, Callable[[], list[Row]]] = {}


def rows(function: Callable[[], list[Row]]) -> Callable[[], list[Row]]:
    """Register a function that measures a group of rows under its own name."""
    ROWS[function.__name__] = function
    return function
