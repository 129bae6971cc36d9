"""Dropping of conditions in training, so that one model is conditional and unconditional."""

from typing import Any

import torch

from pushforward import _random
from pushforward._checks import is_real
from pushforward.errors import ConditionError, UserError


def checked_drop_cond(drop_cond: float, classes: int | None, null: Any = None) -> float:
    """Return the share of conditions to drop, or raise an error if it is invalid."""
    if not is_real(drop_cond) or not 0 <= drop_cond < 1:
        raise UserError(f"drop_cond is {drop_cond}, but it is a share from 0 to below 1; 0.1 is usual.")
    if drop_cond and classes is None and null is None:
        raise ConditionError(
            f"drop_cond is {drop_cond}, but the model has no classes to drop; give classes=K, or for records null=, what stands for no "
            "condition, or drop_cond=0."
        )
    return drop_cond


def with_dropped(cond: Any, share: float, classes: int | None, generator: _random.Generators, null: Any = None) -> Any:
    """Return a condition with a share dropped: labels (n,) become `classes`, the index of the null row; rows of a record become `null`."""
    if isinstance(cond, torch.Tensor):
        assert classes is not None
        return torch.where(_random.uniform((len(cond),), generator, cond.device) < share, classes, cond)
    return cond.where(_random.uniform((len(cond),), generator) >= share, null)
