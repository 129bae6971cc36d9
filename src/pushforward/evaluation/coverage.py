"""How much of the samples lies among the data, and of the data among the samples, by balls that reach to nearest neighbours."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward._checks import whole
from pushforward.errors import UserError
from pushforward.evaluation.features import check_features
from pushforward.registry import export

CHUNK = 2**22  # distances per block


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in [0, 1]: of samples that lie among the data (`precision`), and of data that lie among the samples (`recall`)."""

    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    """The mean number of the data's balls around a sample, over k (`density`), and the share of these balls with a sample (`coverage`)."""

    density: float
    coverage: float


@export("evaluation.precision_recall", example=lambda: (torch.randn(8, 3), torch.randn(12, 3)))
def precision_recall(real: Tensor, samples: Tensor, k: int = 3) -> PrecisionRecall:
    """Measure the share of samples among the data, and the share of the data among the samples.

        precision = mean_j [s_j in some B(r_i)],    recall = mean_i [r_i in some B'(s_j)]

    B(r_i) is the closed ball around r_i that reaches to its k-th nearest neighbour in `real`, B'(s_j) the same among `samples`. Samples
    that collapse to a few points of the data have precision 1 and recall near 0; equal sets have 1 and 1. Both depend on the sizes of
    the sets: only compare values of equal sizes.

    Args:
        real: features of the data (n, *shape).
        samples: features of the samples (m, *shape).
        k: which neighbour the balls reach to.

    Returns:
        A frozen record of precision and recall.

    Raises:
        ShapeError: the sets differ in the shape of their rows.
        UserError: a set has no more than k rows, or k is below 1.
        DataError: a value is NaN or infinite.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
        >>> evaluation.precision_recall(real, torch.tensor([[0.5], [0.6], [30.0]]), k=1)
        PrecisionRecall(precision=0.6666666666666666, recall=0.75)

    Source: Kynkäänniemi et al., Improved precision and recall metric for assessing generative models, 2019, arXiv 1904.06991, eq. 1.
    """
    real, samples = _checked(real, samples, k)
    return PrecisionRecall(_covered(samples, real, _radii(real, k)), _covered(real, samples, _radii(samples, k)))


@export("evaluation.density_coverage", example=lambda: (torch.randn(8, 3), torch.randn(12, 3)))
def density_coverage(real: Tensor, samples: Tensor, k: int = 5) -> DensityCoverage:
    """Measure how densely samples lie among the data, and the share of the data that has samples around it.

        density = 1 / (k m) sum_j sum_i [s_j in B(r_i)],    coverage = mean_i [some s_j in B(r_i)]

    B(r_i) reaches to the k-th nearest neighbour of r_i in `real`; it is open for density and closed for coverage, so that equal sets have
    1 and 1, and copies of one example are covered by another. Only balls around data are used, so that an outlier among the samples
    cannot raise either. Independent samples of the data's distribution have density 1 on average, and coverage about 1 - 2^-k for equal
    sizes. Density may exceed 1.

    Args:
        real: features of the data (n, *shape).
        samples: features of the samples (m, *shape).
        k: which neighbour the balls reach to.

    Returns:
        A frozen record of density and coverage.

    Raises:
        ShapeError: the sets differ in the shape of their rows.
        UserError: a set has no more than k rows, or k is below 1.
        DataError: a value is NaN or infinite.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
        >>> evaluation.density_coverage(real, torch.tensor([[0.5], [0.6], [30.0]]), k=1)
        DensityCoverage(density=1.3333333333333333, coverage=0.5)

    Source: Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020, arXiv 2002.09797, eqs. 3 and 4.
    """
    real, samples = _checked(real, samples, k)
    radii = _radii(real, k)
    inside = sum(int((block < radii).sum()) for block in _distances(samples, real))
    nearest = torch.cat([block.amin(dim=1) for block in _distances(real, samples)])
    return DensityCoverage(inside / (k * len(samples)), float((nearest <= radii).double().mean()))


def _checked(real: Tensor, samples: Tensor, k: int) -> tuple[Tensor, Tensor]:
    whole("k", k, 1)
    check_features(real, samples, ("real", "samples"))
    for name, one in (("real", real), ("samples", samples)):
        if len(one) <= k:
            raise UserError(
                f"{name} has {len(one)} rows, but balls that reach to neighbour {k} need at least {k + 1}; give more, or a smaller k."
            )
    return real.flatten(1).double(), samples.flatten(1).to(real.device).double()


def _radii(x: Tensor, k: int) -> Tensor:
    """The distance (n,) of each row to its k-th nearest neighbour among the others."""
    return torch.cat([block.kthvalue(k + 1, dim=1).values for block in _distances(x, x)])  # the nearest is the row itself


def _covered(x: Tensor, centres: Tensor, radii: Tensor) -> float:
    """The share of rows that lie in at least one closed ball."""
    return sum(int((block <= radii).any(dim=1).sum()) for block in _distances(x, centres)) / len(x)


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """The distances of the rows of x to those of y, in blocks; from differences, so that equal rows are at 0 exactly."""
    for block in x.split(max(1, CHUNK // len(y))):
        yield torch.cdist(block, y, compute_mode="donot_use_mm_for_euclid_dist")
