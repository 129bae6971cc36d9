"""What a data set must hold: numbers in a tensor, labels or conditions of as many rows, values that are levels."""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward.errors import DataError
from pushforward.functional.levels import Level, Levels, cells, highest, lowest, too_few

MOST_CLASSES = 100_000  # that labels alone may make: a model has weights for each, and a label such as a year or an identifier is none


def as_tensor(name: str, what: str, values: Any) -> Tensor:
    """Return a tensor, or an array of numbers as one that shares its memory where it can.

    Raises:
        DataError: it is neither, or an array of what torch has no numbers for.
    """
    if isinstance(values, Tensor):
        if values.layout is not torch.strided or values.device.type == "meta":
            where = "on the device meta" if values.device.type == "meta" else f"of layout {values.layout}"
            raise DataError(f"{name}: {what} is a tensor {where}, but it must hold its values; give an ordinary tensor.")
        return values
    if not isinstance(values, numpy.ndarray):
        raise DataError(f"{name}: {what} is {shown(values)}, but it must be a tensor or a numpy array; use torch.as_tensor({what}).")
    refuse_masked(name, values)
    if values.dtype.kind not in "biufc":
        raise DataError(f"{name}: {what} has dtype {values.dtype}, but needs numbers; convert it first.")
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        native = native.astype(numpy.float64)
    plain = native.flags.writeable and all(stride >= 0 for stride in native.strides)
    return torch.from_numpy(native if plain else native.copy())


def refuse_masked(name: str, array: numpy.ndarray) -> None:
    """Raise if an array of numpy has masked values, which a tensor would contain as they are under the mask."""
    if isinstance(array, numpy.ma.MaskedArray) and numpy.ma.is_masked(array):
        raise DataError(f"{name}: {int(array.mask.sum())} values are masked; fill them in (array.filled(value)), or remove their rows.")


def checked_cond(name: str, count: int, cond: Tensor | None, classes: int | None) -> tuple[Tensor | None, int | None]:
    """Return labels as int64 with the number of classes, or other conditions as float32 with None."""
    if cond is None:
        if classes is not None:
            raise DataError(f"{name}: classes is {classes}, but there are no labels; give cond too, or leave classes out.")
        return None, None
    if is_numbers(cond):
        if len(cond) != count or classes is not None or not cond.isfinite().all():
            raise DataError(
                f"{name}: cond has shape {tuple(cond.shape)} and {classes or 'no'} classes, but conditions other than labels need "
                f"({count}, features) or ({count}, channels, height, width), finite numbers and no classes."
            )
        return cond.detach().to(torch.float32), None
    if cond.is_floating_point() or cond.is_complex() or cond.dtype is torch.bool:
        raise DataError(f"{name}: the labels have dtype {cond.dtype}, but classes must be integers; convert them first.")
    if tuple(cond.shape) != (count,):
        vectors = "; vectors hold real numbers" * (cond.ndim == 2)
        raise DataError(f"{name}: the labels have shape {tuple(cond.shape)}, but {count} examples need shape ({count},){vectors}.")
    labels = cond.detach().to(torch.int64)
    allowed = int(labels.max()) + 1 if classes is None else classes
    if classes is None and allowed > max(MOST_CLASSES, count):
        row = int(labels.argmax())
        raise DataError(
            f"{name}: row {row} has label {allowed - 1}, which would make {allowed} classes of {count} examples; number classes 0, 1, ..., "
            "or give numbers that are no classes as vectors (N, features)."
        )
    wrong = ((labels < 0) | (labels >= allowed)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        limit = f"0 to {allowed - 1}" if allowed > 0 else "0 or more"
        raise DataError(f"{name}: row {row} has label {int(labels[row])}, but labels must be {limit} ({len(wrong)} of {count} are not).")
    return labels, allowed


def is_numbers(cond: Any) -> bool:
    """Return whether a tensor or array of conditions holds vectors or images (also masks and pixels), not labels."""
    real = cond.is_floating_point() if isinstance(cond, Tensor) else cond.dtype.kind == "f"
    return cond.ndim > 2 or (real and cond.ndim == 2)


def checked_levels(name: str, levels: int | Sequence[Level] | None, shape: tuple[int, ...]) -> Levels:
    """Return levels as one number, or as a tuple with one entry per column, of which some have levels."""
    each = [levels] if isinstance(levels, int) or levels is None else list(levels)
    if not isinstance(levels, int) and levels is not None and shape != (len(each),):
        raise DataError(f"{name}: levels has {len(each)} entries for examples of shape {shape}; give one for each column, or one number.")
    for one in each:
        if too_few(one):
            raise DataError(f"{name}: levels is {levels}, but a coordinate needs at least 2 values; leave levels out for continuous data.")
    if isinstance(levels, int) or all(one is None for one in each):
        return levels if isinstance(levels, int) else None
    return tuple(each)


def refuse_not_finite(name: str, x: Tensor, rows: Tensor | None = None) -> None:
    """Raise if x (n, *shape) contains NaN or infinity, with the number of the first such row in the source: `rows` (n,), or its index."""
    if not x.is_floating_point():
        return
    wrong = (~torch.isfinite(x).flatten(1).all(dim=1)).nonzero().flatten()
    if len(wrong):
        what = "NaN" if x[wrong[0]].isnan().any() else "an infinite value"
        first = int(wrong[0] if rows is None else rows[wrong[0]])
        raise DataError(
            f"{name}: row {first} (counted from 0) holds {what}; {len(wrong)} of {len(x)} rows hold NaN or infinity: "
            "remove them or fill them in."
        )


def refuse_other_than_levels(name: str, x: Tensor, levels: Levels, rows: Tensor | None = None) -> None:
    """Raise if x (n, *shape) has values that are not one of its levels, with the first such row as in `refuse_not_finite`."""
    if levels is None:
        return
    if x.dtype is torch.uint8:
        outside = x > highest(levels, torch.zeros(()))
    else:
        # The range of a column of integers is that of the table its schema was read from, which further tables may exceed.
        closed = levels if isinstance(levels, int) else tuple(None if isinstance(one, tuple) else one for one in levels)
        outside = (x < lowest(closed, x)) | (x > highest(closed, x)) | ((x != x.floor()) & (cells(levels, x) > 0))
    wrong = outside.flatten(1).any(dim=1).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0] if rows is None else rows[wrong[0]])
        allowed = f"0 to {levels - 1}" if isinstance(levels, int) else f"the levels of its column ({levels})"
        raise DataError(
            f"{name}: row {first} (counted from 0) holds a value that is not an integer in {allowed} ({len(wrong)} of "
            f"{len(x)} rows do); scale x to its levels, or leave levels out."
        )
