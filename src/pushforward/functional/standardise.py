"""Standardisation with its log-determinant, and dequantisation."""

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward._precision import wide
from pushforward.registry import export


def _example() -> tuple:
    return (
        torch.randn(3, 2, dtype=torch.float64),
        torch.tensor([1.0, -2.0], dtype=torch.float64),
        torch.tensor([0.5, 3.0], dtype=torch.float64),
    )


@export("functional.standardise", example=_example)
def standardise(
    x: Float[Tensor, "n ..."], mean: Tensor, std: Tensor, inverse: bool = False
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]]:
    """Subtract a mean and divide by a standard deviation, or invert this.

        z = (x - mean) / std,    log|det| = -sum log std;    inverse: x = mean + std z,    log|det| = sum log std

    Args:
        x: values (n, *shape).
        mean: what to subtract, broadcast to shape.
        std: what to divide by, positive, broadcast to shape.
        inverse: whether to compute the inverse.

    Returns:
        The values (n, *shape) and log_abs_det (n,) in nats, in float32 or wider.

    Example:
        >>> z, log_abs_det = standardise(torch.tensor([[3.0, 5.0]]), torch.tensor(1.0), torch.tensor(2.0))
        >>> z, log_abs_det
        (tensor([[1., 2.]]), tensor([-1.3863]))
    """
    dtype = wide(x)
    total = std.to(dtype).log().expand(x.shape[1:]).sum().expand(x.shape[0])
    if inverse:
        return torch.addcmul(mean, x, std), total.clone()
    return (x - mean) / std, -total


@export("functional.dequantise", example=lambda: (torch.tensor([[0.0, 3.0]], dtype=torch.float64), torch.rand(1, 2, dtype=torch.float64)))
def dequantise(x: Float[Tensor, "n ..."], uniform: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Add noise to integer levels so that they fill unit cells, and a continuous density bounds their probability.

        y = x + u,    u in [0, 1), so that floor(y) = x:    log P(x) >= E_u log p(x + u)

    Args:
        x: integer-valued levels 0, 1, ..., (n, *shape).
        uniform: numbers in [0, 1), (n, *shape).

    Returns:
        Real values (n, *shape), never rounded up to the next level.

    Example:
        >>> dequantise(torch.tensor([[2.0]]), torch.tensor([[0.25]]))
        tensor([[2.2500]])

    Source: Theis, van den Oord and Bethge, A note on the evaluation of generative models, 2015, arXiv 1511.01844, section 3.1.
    """
    return torch.minimum(x + uniform, torch.nextafter(x + 1, x).detach())  # 16 + 0.9999999 is 17 in float32
