"""From continuous samples back to the levels of quantised data."""

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.registry import export


@export("evaluation.quantise", example=lambda: (torch.tensor([[-0.3, 3.7, 17.0]]), 17))
def quantise(x: Tensor, levels: int) -> Tensor:
    """Round continuous samples down to the levels of their data.

        q = min(max(floor(x), 0), levels - 1)

    Args:
        x: samples (n, *shape), in the units of data with levels 1 apart; a value in [k, k + 1) is level k.
        levels: number of values a coordinate can take.

    Returns:
        q (n, *shape) in the dtype of x, integers in 0 .. levels - 1.

    Raises:
        UserError: levels < 2.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> evaluation.quantise(torch.tensor([-0.3, 3.7, 17.0]), levels=17)
        tensor([ 0.,  3., 16.])
    """
    if levels < 2:
        raise UserError(f"levels is {levels}, but a coordinate needs at least 2 values.")
    return x.floor().clamp(0, levels - 1)
