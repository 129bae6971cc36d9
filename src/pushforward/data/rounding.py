"""Numbers that float32, in which data sets hold them, rounds to few different values or to one."""

import warnings
from collections.abc import Iterable

import numpy

COARSE = 100  # steps of float32 in a standard deviation, of which fewer are warned of
EXACT = 4  # bytes of floating-point numbers that float32 holds as they are


def warn_of_rounding(name: str, columns: Iterable[tuple[str, numpy.ndarray]]) -> None:
    """Warn of columns whose values differ by little compared with their size.

    Args:
        name: what messages call the source.
        columns: what they call each column, and its values (N,), finite.
    """
    for title, values in columns:
        least = values.min()
        with numpy.errstate(over="ignore", invalid="ignore"):
            deviation = float((values - least).astype(numpy.float64).std())  # in its own type first: float64 may round integers, too
            step = float(numpy.spacing(numpy.abs(values.astype(numpy.float64)).max().astype(numpy.float32)))
        if not 0 < deviation < COARSE * step:
            continue
        shown = least if values.dtype.kind in "iu" else f"{float(least):.15g}"
        small = step <= float(numpy.finfo(numpy.float32).smallest_subnormal)
        warnings.warn(
            f"{name}: {title} has values around {float(values.mean()):g} that differ by {deviation:g}, which float32 rounds "
            f"to multiples of {step:g}; {'multiply it by a constant' if small else f'subtract {shown} from it'} first.",
            stacklevel=5,
        )


def warn_of_rounded_rows(name: str, rows: numpy.ndarray) -> None:
    """Do so of the columns of an array (N,) or (N, features) of numbers that are wider than float32."""
    rows = rows[:, None] if rows.ndim == 1 else rows
    wide = rows.dtype.kind in "iu" and rows.dtype.itemsize >= EXACT
    if rows.ndim == 2 and len(rows) and (wide or (rows.dtype.kind == "f" and rows.dtype.itemsize > EXACT)):
        parts = ((f"column {k} (counted from 0)", rows[:, k]) for k in range(rows.shape[1]))
        warn_of_rounding(name, ((title, values) for title, values in parts if numpy.isfinite(values).all()))
