"""From continuous samples back to the levels of quantised data."""

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.functional.levels import Levels, cells, highest, lowest, too_few
from pushforward.registry import export


@export("evaluation.quantise", example=lambda: (torch.tensor([[-0.3, 3.7, 17.0]]), 17))
def quantise(x: Tensor, levels: Levels) -> Tensor:
    """Round continuous samples down to the levels of their data.

        q = min(max(floor(x), lowest), highest),    0 and levels - 1, or the lowest and highest integer of a column

    Args:
        x: samples (n, *shape), in the units of data with levels 1 apart; a value in [k, k + 1) is level k.
        levels: number of values a coordinate can take; for a table one entry per column, also (lowest, highest) for integers, where None
            leaves the column unchanged.

    Returns:
        q (n, *shape) in the dtype of x, integers where there are levels.

    Raises:
        UserError: levels < 2.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> evaluation.quantise(torch.tensor([-0.3, 3.7, 17.0]), levels=17)
        tensor([ 0.,  3., 16.])
        >>> evaluation.quantise(torch.tensor([[1.7, 1.7]]), levels=(3, None))
        tensor([[1.0000, 1.7000]])
    """
    if levels is None:
        return x
    if any(map(too_few, levels if isinstance(levels, tuple) else (levels,))):
        raise UserError(f"levels is {levels}, but a coordinate must have at least 2 values.")
    return torch.where(cells(levels, x) > 0, x.floor().maximum(lowest(levels, x)).minimum(highest(levels, x)), x)
