"""A row of the table: one case, the times of all contenders, and whether the bar was reached."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.timing import Times

OURS, FLOOR = "pushforward", "floor"


@dataclass(frozen=True)
class Row:
    """One case.

    `values` maps contenders to a number in `unit` (lower is better), `ratio` is our advantage over the best peer as a factor, with its
    minimum and maximum over the runs, and `bar` describes the target.
    """

    case: str
    unit: str
    values: dict[str, float]
    ratio: tuple[float, float, float]
    bar: str
    passed: bool

    def peers(self) -> dict[str, float]:
        return {name: value for name, value in self.values.items() if name not in (OURS, FLOOR)}


def plain_row(row: Row) -> Row:
    """Return a row with the bar for plain paths: at most 1.3 times the time of the fastest peer."""
    return replace(row, bar="at most 1.3x of the fastest peer", passed=row.ratio[0] >= 1 / 1.3)


def against_peers_and_floor(case: str, times: Times, bar: float) -> Row:
    """Return a row that passes if we beat the fastest peer by the bar and are within 1.15 times the floor, up to 5 % of noise."""
    ratio = times.ratio(OURS, [name for name in times.runs if name not in (OURS, FLOOR)])
    over_floor = times.ratio(OURS, [FLOOR])[0]
    target = f"{bar:g}x the fastest peer; 1.15x of the floor (is {1 / over_floor:.2f}x)"
    passed = ratio[0] >= 0.95 * bar and over_floor >= 1 / (1.05 * 1.15)
    return Row(case, "ms", {name: 1000 * times.best(name) for name in times.runs}, ratio, target, passed)


ROWS: dict[str, Callable[[], list[Row]]] = {}


def rows(function: Callable[[], list[Row]]) -> Callable[[], list[Row]]:
    """Register a function that measures a group of rows under its own name."""
    ROWS[function.__name__] = function
    return function
