"""Levels of quantised data: one number for all coordinates, or one entry for each column of a table, None for a continuous column.

The entry of a column is a number of levels 0, 1, ..., or the lowest and the highest of its integers, (18, 80).
"""

from typing import TypeAlias

import torch
from torch import Tensor

from pushforward.functional.standardise import dequantise

Level: TypeAlias = int | tuple[int, int] | None
Levels: TypeAlias = int | tuple[Level, ...] | None


def cells(levels: Levels, like: Tensor) -> Tensor:
    """Return the width of a level's cell: 1, or 0 where data are continuous; () or (columns,), in the dtype and device of `like`."""
    if isinstance(levels, tuple):
        return torch.tensor([0.0 if one is None else 1.0 for one in levels], dtype=like.dtype, device=like.device)
    return torch.tensor(0.0 if levels is None else 1.0, dtype=like.dtype, device=like.device)


def lowest(levels: Levels, like: Tensor) -> Tensor:
    """Return the lowest level, or minus infinity where data are continuous: () or (columns,), in the dtype and device of `like`."""
    each = [-torch.inf if one is None else float(one[0]) if isinstance(one, tuple) else 0.0 for one in _entries(levels)]
    return _shaped(each, levels, like)


def highest(levels: Levels, like: Tensor) -> Tensor:
    """Return the highest level, or infinity where data are continuous: () or (columns,), in the dtype and device of `like`."""
    each = [torch.inf if one is None else float(one[1]) if isinstance(one, tuple) else one - 1.0 for one in _entries(levels)]
    return _shaped(each, levels, like)


def spread(x: Tensor, levels: Levels, uniform: Tensor) -> Tensor:
    """Return x (n, *shape) dequantised by numbers in [0, 1) where it has levels, and unchanged elsewhere."""
    if isinstance(levels, tuple):
        return torch.where(cells(levels, x) > 0, dequantise(x, uniform), x)
    return x if levels is None else dequantise(x, uniform)


def too_few(level: Level) -> bool:
    """Return whether an entry has fewer values than it must: 2 levels, or 1 integer."""
    return level is not None and (level[0] > level[1] if isinstance(level, tuple) else level < 2)


def _entries(levels: Levels) -> tuple[Level, ...]:
    return levels if isinstance(levels, tuple) else (levels,)


def _shaped(each: list[float], levels: Levels, like: Tensor) -> Tensor:
    return torch.tensor(each if isinstance(levels, tuple) else each[0], dtype=like.dtype, device=like.device)
