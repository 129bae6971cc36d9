"""Dropping of conditions in training, so that one model is conditional and unconditional."""

from typing import Any

import torch

from pushforward import _random
from pushforward._checks import is_real
from pushforward.conditions import Conditioning, dropped
from pushforward.errors import ConditionError, UserError


def checked_share(name: str, share: float) -> float:
    """Return the share of training rows whose condition is dropped, or raise an error that names the argument."""
    if not is_real(share) or not 0 <= share < 1:
        raise UserError(f"{name} is {share}, but it is a share from 0 to below 1; 0.1 is usual.")
    return share


def checked_drop_cond(drop_cond: float, kind: Conditioning, null: Any = None) -> float:
    """Return the share of conditions to drop, or raise an error if it is invalid."""
    checked_share("drop_cond", drop_cond)
    if drop_cond and not kind and null is None:
        raise ConditionError(
            f"drop_cond is {drop_cond}, but the model has no conditions to drop; give classes=K, cond_features=k or cond_image=(c, h, w), "
            "or null=, the row that stands for no condition, or drop_cond=0."
        )
    return drop_cond


def with_dropped(cond: Any, share: float, kind: Conditioning, generator: _random.Generators, null: Any = None) -> Any:
    """Return a condition with a share dropped: labels (n,) become `classes`, the index of the null row, vectors and images NaN.

    Where `null` is given, a condition of one row that a network of one's own takes for none, it replaces what is dropped.
    """
    place = None if not isinstance(cond, torch.Tensor) else cond.device
    return masked(cond, _random.uniform((len(cond),), generator, place) < share, kind, null)


def masked(cond: Any, mask: torch.Tensor, kind: Conditioning, null: Any = None) -> Any:
    """Return a condition with the rows dropped where mask (n,) is true, as `with_dropped` does."""
    if not isinstance(cond, torch.Tensor):
        return cond.where(~mask, null)
    if null is not None:
        return torch.where(mask.view(-1, *(1,) * (cond.ndim - 1)), null.to(cond), cond)
    return dropped(cond, mask) if kind.classes is None else torch.where(mask, kind.classes, cond)
