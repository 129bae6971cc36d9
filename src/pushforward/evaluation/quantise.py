"""Between levels and continuous values: uniform dequantisation and its inverse."""

import torch
from torch import Generator, Tensor

from pushforward.errors import UserError
from pushforward.registry import export


@export("evaluation.dequantise", example=lambda: torch.tensor([[0.0, 3.0, 16.0]]))
def dequantise(x: Tensor, generator: Generator | None = None) -> Tensor:
    """Add uniform noise in [0, 1) to integer-valued data, which fills the gap to the next level.

        y = x + u,    u uniform in [0, 1),    so that floor(y) = x

    A density p of y bounds the probability of x: log P(x) >= E[log p(x + u)], by Jensen.

    Args:
        x: integer-valued data (n, *shape), neighbouring values 1 apart.
        generator: where the noise is drawn from; its device must be that of x.

    Returns:
        y (n, *shape), never rounded up to the next level.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> x = torch.tensor([[0.0, 3.0, 16.0]])
        >>> bool((evaluation.dequantise(x).floor() == x).all())
        True

    Source: Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2015, arXiv 1511.01844, section 3.1.
    """
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return torch.minimum(x + noise, torch.nextafter(x + 1, x))  # 16 + 0.9999999 is 17 in float32


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
