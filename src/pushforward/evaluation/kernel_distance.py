"""The kernel distance (KID): a squared distance between two sets of features whose estimate has no bias."""

import torch
from torch import Tensor

from pushforward._precision import wide
from pushforward.errors import UserError
from pushforward.evaluation.features import check_features
from pushforward.registry import export

DEGREE = 3
CHUNK = 2**22  # elements per block of the kernel matrix


@export("evaluation.kernel_distance", example=lambda: (torch.randn(8, 3), torch.randn(12, 3)))
def kernel_distance(x: Tensor, y: Tensor) -> Tensor:
    """Estimate the squared maximum mean discrepancy of two sets under a cubic kernel, without bias: the KID on features.

        MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j),    k(a, b) = (a b / D + 1)^3

    The expectation for two samples of one distribution is 0, whatever their sizes, so that single estimates may be negative. Published
    values are of the features of an Inception network; only compare values of the same features.

    Args:
        x: features (n, *shape), flattened to D values each.
        y: features (m, *shape).

    Returns:
        The estimate, a scalar tensor; differentiable.

    Raises:
        ShapeError: x and y differ in the shape of their rows.
        UserError: x or y has fewer than 2 rows.
        DataError: a value is NaN or infinite.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> evaluation.kernel_distance(x, x + 1)  # 1 + 27 - 2 (1 + 1 + 8 + 27) / 4
        tensor(9.5000)

    Source: Binkowski, Sutherland, Arbel and Gretton, Demystifying MMD GANs, 2018, arXiv 1801.01401, section 4.
    """
    check_features(x, y)
    if min(len(x), len(y)) < 2:
        raise UserError(f"x has {len(x)} rows and y {len(y)}, but the mean over pairs needs at least 2 of each.")
    a, b = x.flatten(1).double(), y.flatten(1).to(x.device).double()
    within = sum((_total(one, one) - _kernel(one.square().sum(1) / one.shape[1]).sum()) / (len(one) * (len(one) - 1)) for one in (a, b))
    return (within - 2 * _total(a, b) / (len(a) * len(b))).to(wide(x))


def _total(a: Tensor, b: Tensor) -> Tensor:
    """The sum of the kernel over all pairs."""
    total = a.new_zeros(())
    for block in a.split(max(1, CHUNK // len(b))):
        total = total + _kernel(block @ b.T / a.shape[1]).sum()
    return total


def _kernel(product: Tensor) -> Tensor:
    return (product + 1) ** DEGREE
