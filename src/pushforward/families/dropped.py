"""Labels left out in training, so that one model is conditional and unconditional."""

import torch
from torch import Tensor

from pushforward import _random
from pushforward.errors import ConditionError, UserError


def checked_drop_cond(drop_cond: float, classes: int | None) -> float:
    """Return the share of labels to leave out, or refuse what is none."""
    if not 0 <= drop_cond < 1:
        raise UserError(f"drop_cond is {drop_cond}, but it is a share from 0 to below 1; 0.1 is usual.")
    if drop_cond and classes is None:
        raise ConditionError(f"drop_cond is {drop_cond}, but the model has no classes to drop; give classes=K or drop_cond=0.")
    return drop_cond


def with_dropped(cond: Tensor, share: float, classes: int | None, generator: _random.Generators) -> Tensor:
    """Return labels (n,) of which a share is the null row's, which stands after the last class."""
    assert classes is not None
    return torch.where(_random.uniform((len(cond),), generator, cond.device) < share, classes, cond)
