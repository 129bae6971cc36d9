"""The place where a condition stops to hold, for functions without a closed inverse."""

from collections.abc import Callable

import torch
from torch import Tensor


def bisected(before: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return where `before`, true at `low` and false at `high`, changes (all of one shape), by 60 halvings, which exhaust float64."""
    for _ in range(60):
        middle = (low + high) / 2
        beyond = before(middle)
        low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    return (low + high) / 2
