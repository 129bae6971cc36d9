"""Levels of quantised data: one number for all coordinates, or one for each column of a table, None for a continuous column."""

from typing import TypeAlias

import torch
from torch import Tensor

from pushforward.functional.standardise import dequantise

Levels: TypeAlias = int | tuple[int | None, ...] | None


def cells(levels: Levels, like: Tensor) -> Tensor:
    """Return the width of a level's cell: 1, or 0 where data are continuous; () or (columns,), in the dtype and device of `like`."""
    if isinstance(levels, tuple):
        return torch.tensor([0.0 if one is None else 1.0 for one in levels], dtype=like.dtype, device=like.device)
    return torch.tensor(0.0 if levels is None else 1.0, dtype=like.dtype, device=like.device)


def highest(levels: int | tuple[int | None, ...], like: Tensor) -> Tensor:
    """Return the highest level, or infinity where data are continuous: () or (columns,), in the dtype and device of `like`."""
    if isinstance(levels, int):
        return torch.tensor(levels - 1.0, dtype=like.dtype, device=like.device)
    return torch.tensor([torch.inf if one is None else one - 1.0 for one in levels], dtype=like.dtype, device=like.device)


def spread(x: Tensor, levels: Levels, uniform: Tensor) -> Tensor:
    """Return x (n, *shape) dequantised by numbers in [0, 1) where it has levels, and unchanged elsewhere."""
    if isinstance(levels, tuple):
        return torch.where(cells(levels, x) > 0, dequantise(x, uniform), x)
    return x if levels is None else dequantise(x, uniform)
