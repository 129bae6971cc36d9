"""How well a score separates two sets."""

import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward.errors import ShapeError, UserError
from pushforward.registry import export


@export("evaluation.auroc")
def auroc(inside: Tensor, outside: Tensor) -> float:
    """Return the area under the ROC curve of scores: the probability that something outside scores higher than something inside.

        P(s_outside > s_inside) + P(s_outside = s_inside) / 2

    1 separates the sets perfectly, 1/2 is chance, and below it the score prefers what is outside.

    Args:
        inside: scores (n,) of what belongs to the distribution; infinity is allowed.
        outside: scores (m,) of what does not.

    Returns:
        A number from 0 to 1, exact, also with ties.

    Raises:
        ShapeError: a set of scores is empty, or has more than one dimension.
        UserError: it is no tensor, or has NaN.

    Example:
        >>> auroc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
        0.875

    Source: Hanley and McNeil, The meaning and use of the area under a receiver operating characteristic (ROC) curve, 1982.
    """
    checked = []
    for name, scores in (("inside", inside), ("outside", outside)):
        if not isinstance(scores, Tensor):
            raise UserError(f"{name} is {shown(scores)}, but scores are a tensor (n,).")
        if scores.ndim != 1 or len(scores) == 0:
            raise ShapeError(f"{name} has shape {tuple(scores.shape)}, but scores are one number for each of at least one example, (n,).")
        if bool(scores.isnan().any()):
            raise UserError(f"{name} has NaN for {int(scores.isnan().sum())} of {len(scores)} examples, which has no place in an order.")
        checked.append(scores.detach().cpu().double().contiguous())
    ordered, found = checked[0].sort().values, checked[1]
    below, up_to = (torch.searchsorted(ordered, found, right=right).double().mean() for right in (False, True))
    return float(below + up_to) / 2 / len(ordered)
