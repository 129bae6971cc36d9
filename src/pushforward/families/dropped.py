"""Conditions left out in training, so that one model is conditional and unconditional."""

from typing import Any

import torch

from pushforward import _random
from pushforward._checks import is_real
from pushforward.errors import ConditionError, UserError


def checked_drop_cond(drop_cond: float, classes: int | None, null: Any = None) -> float:
    """Return the share of conditions to leave out, or refuse what is none."""
    if not is_real(drop_cond) or not 0 <= drop_cond < 1:
        raise UserError(f"drop_cond is {drop_cond}, but it is a share from 0 to below 1; 0.1 is usual.")
    if drop_cond and classes is None and null is None:
        raise ConditionError(
            f"drop_cond is {drop_cond}, but the model has no classes to drop; give classes=K, or for records null=, what stands for no "
            "condition, or drop_cond=0."
        )
    return drop_cond


def with_dropped(cond: Any, share: float, classes: int | None, generator: _random.Generators, null: Any = None) -> Any:
    """Return a condition of which a share is left out: labels (n,) become the null row's, after the last class, a record's rows `null`."""
    if isinstance(cond, torch.Tensor):
        assert classes is not None
        return torch.where(_random.uniform((len(cond),), generator, cond.device) < share, classes, cond)
    return cond.where(_random.uniform((len(cond),), generator) >= share, null)
