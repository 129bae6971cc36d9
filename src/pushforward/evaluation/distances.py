"""Distances between sets of samples: sliced Wasserstein, nearest neighbours, and a memorisation statistic."""

import math
from dataclasses import dataclass

import numpy
import torch
from torch import Generator, Tensor

from pushforward._modes import untransformed
from pushforward._precision import wide
from pushforward.errors import ShapeError, UserError
from pushforward.evaluation.features import check_finite_features
from pushforward.registry import export

CHUNK = 2**24  # elements per block: 64 MiB in float32


@dataclass(frozen=True)
class Spread:
    """A distance over several draws: mean, standard deviation over the draws, and each draw's value (draws,)."""

    mean: float
    std: float
    values: Tensor

    def __str__(self) -> str:
        return f"{self.mean:.4f} +- {self.std:.4f}"


@dataclass(frozen=True)
class Memorisation:
    """Nearest-neighbour distances (n,) of samples and of test to equally many training examples, in the units of the data.

    `closer_to_train` is the share of samples that are closer to train than to test (ties count half): about 1/2 for a model that
    generalises, towards 1 for one that repeats its training set. `chance` is its standard deviation when the two sets are exchanged at
    random: how far from 1/2 it is without copying.
    """

    samples_to_train: Tensor
    samples_to_test: Tensor
    test_to_train: Tensor
    closer_to_train: float
    chance: float

    @property
    def medians(self) -> dict[str, float]:
        """The median of each set of distances."""
        return {name: float(getattr(self, name).median()) for name in ("samples_to_train", "samples_to_test", "test_to_train")}


@export("evaluation.sliced_wasserstein", example=lambda: (torch.randn(8, 3), torch.randn(8, 3)))
def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 500, generator: Generator | None = None) -> Tensor:
    """Measure the sliced Wasserstein distance of order 2 between two equally large sets of samples.

        SW^2 = mean over directions w of  1/n sum_i ((X w)_(i) - (Y w)_(i))^2,    w uniform on the unit sphere

    with ( )_(i) the i-th smallest. Two sets that only differ by a shift d have root mean square distance |d| / sqrt(D) over w.

    Args:
        x: samples (n, *shape), flattened to D values each.
        y: samples (n, *shape), the same number.
        projections: number of random directions.
        generator: random generator of the directions, on the device of x.

    Returns:
        SW, a scalar tensor in the units of the data; differentiable except at 0.

    Raises:
        ShapeError: x and y differ in shape or are empty.
        UserError: projections < 1.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> evaluation.sliced_wasserstein(x, x + 2)
        tensor(2.)

    Source: Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015; order 2, Monte-Carlo over directions.
    """
    if x.shape != y.shape or len(x) == 0:
        raise ShapeError(
            f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}, but the shapes must be equal and not empty; "
            "use the same number of each, or sliced_wasserstein_draws."
        )
    if projections < 1:
        raise UserError(f"projections is {projections}, but at least 1 direction is needed; try 500.")
    a, b = _rows(x), _rows(y).to(x.device, wide(x))
    directions = torch.randn((a.shape[1], projections), generator=generator, dtype=a.dtype, device=a.device)
    directions = directions / directions.norm(dim=0)
    total = a.new_zeros(())
    for block in directions.split(max(1, CHUNK // len(a)), dim=1):
        total = total + (_sorted(a @ block) - _sorted(b @ block)).square().mean(dim=0).sum()
    return (total / projections).sqrt()


def _rows(x: Tensor) -> Tensor:
    """Return events as rows (n, d) of float32 or wider: squares of pixels overflow float16, and integers have no distances of their own."""
    return (x.flatten(1) if x.ndim > 1 else x[:, None]).to(wide(x))


def _sorted(columns: Tensor) -> Tensor:
    """Return each column in ascending order; of values alone by NumPy, as torch finds their places too, in ten times the time."""
    plain = type(columns) is Tensor and columns.device.type == "cpu" and columns.dtype in (torch.float32, torch.float64)
    if plain and not columns.requires_grad and untransformed():
        return torch.from_numpy(numpy.sort(columns.numpy(), axis=0))
    return columns.sort(dim=0).values


@export("evaluation.sliced_wasserstein_draws", example=lambda: (torch.randn(8, 3), torch.randn(12, 3)))
def sliced_wasserstein_draws(
    x: Tensor, y: Tensor, draws: int = 20, projections: int = 500, size: int | None = None, generator: Generator | None = None
) -> Spread:
    """Measure the sliced Wasserstein distance several times, with new random directions and subsets of equal size each time.

    The distance between finite sets decreases with their size even for equal distributions: only compare results of equal `size`.

    Args:
        x: samples (n, *shape).
        y: samples (m, *shape).
        draws: number of repetitions.
        projections: number of directions per draw.
        size: number of samples of each set per draw, without replacement; by default the smaller of n and m.
        generator: random generator of directions and subsets, on the device of x.

    Returns:
        A frozen record of mean, std (over the draws) and values (draws,), in the units of the data.

    Raises:
        ShapeError: the events differ in shape.
        UserError: draws < 1, or size is not in 1 .. min(n, m).

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> print(evaluation.sliced_wasserstein_draws(torch.zeros(10, 3), torch.zeros(30, 3)))
        0.0000 +- 0.0000
    """
    smaller = min(len(x), len(y))
    count = smaller if size is None else size
    if draws < 1:
        raise UserError(f"draws is {draws}, but at least 1 is needed; try 20.")
    if not 1 <= count <= smaller:
        raise UserError(f"size is {count}, but x has {len(x)} samples and y {len(y)}; take between 1 and {smaller}.")
    values = torch.stack(
        [sliced_wasserstein(_subset(x, count, generator), _subset(y, count, generator), projections, generator) for _ in range(draws)]
    )
    return Spread(float(values.mean()), float(values.std(correction=1 if draws > 1 else 0)), values)


@export("evaluation.nearest_neighbours", example=lambda: (torch.randn(8, 3), torch.randn(12, 3)))
def nearest_neighbours(x: Tensor, reference: Tensor) -> Tensor:
    """Return the Euclidean distance of each sample to the nearest of a reference set.

        d_i = min_j |x_i - r_j|

    The nearest neighbour is found with chunked matrix products; its distance is then computed from the difference, so that a copy is
    at distance exactly 0 despite the rounding of the product.

    Args:
        x: samples (n, *shape).
        reference: the set to search (m, *shape).

    Returns:
        d (n,) in the units of the data.

    Raises:
        ShapeError: the events differ in shape, or the reference is empty.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> evaluation.nearest_neighbours(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [30.0, 0.0]]))
        tensor([5.])
    """
    return _nearest(x, reference)[0]


def _nearest(x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of each x to its nearest neighbour in the reference set, and the neighbour's index there."""
    if x.shape[1:] != reference.shape[1:] or len(reference) == 0:
        raise ShapeError(
            f"x has shape {tuple(x.shape)} and reference {tuple(reference.shape)}, but needs (n, *shape) and (m, *shape), m > 0."
        )
    a, b = _rows(x), _rows(reference).to(x.device, wide(x))
    centre = b.mean(dim=0)  # centring makes the products, and their rounding errors, smaller
    b_centred = b - centre
    distances, indices = [a.new_zeros(0)], [torch.zeros(0, dtype=torch.int64, device=a.device)]
    for block in a.split(max(1, CHUNK // len(b))):
        indices.append(torch.addmm(b_centred.square().sum(dim=1), block - centre, b_centred.T, alpha=-2).argmin(dim=1))
        distances.append((block - b[indices[-1]]).norm(dim=1))
    return torch.cat(distances), torch.cat(indices)


@export("evaluation.memorisation", example=lambda: (torch.randn(8, 3), torch.randn(12, 3), torch.randn(6, 3)))
def memorisation(samples: Tensor, train: Tensor, test: Tensor, generator: Generator | None = None) -> Memorisation:
    """Compare nearest-neighbour distances of samples to training examples and to test examples.

    The larger of train and test is cut to the size of the smaller one by a random subset, since distances to a larger set are
    smaller. For samples of the true distribution the share closer to train is 1/2 on average.

    Args:
        samples: samples of the model (n, *shape).
        train: its training examples (m, *shape).
        test: held-out examples (k, *shape).
        generator: random generator of the subset.

    Returns:
        A frozen record: samples_to_train (n,), samples_to_test (n,) and test_to_train (k,) in the units of the data, their `medians`,
        closer_to_train, the share of samples closer to train, and chance, the standard deviation of that share under random exchanges of
        the two sets.

    Raises:
        ShapeError: the events differ in shape.
        UserError: a set is empty.
        DataError: a value is NaN or infinite.

    Example:
        >>> import torch
        >>> from pushforward import evaluation
        >>> train, test = torch.zeros(5, 2), torch.ones(5, 2)
        >>> evaluation.memorisation(train + 0.1, train, test).closer_to_train
        1.0

    Source: the share is the statistic of the two-sample test of Meehan et al., A non-parametric test to detect data-copying in
    generative models, 2020, arXiv 2004.05675, without its cells.
    """
    if len(samples) == 0:
        raise UserError("samples is empty, but at least one sample is needed.")
    for name, one in (("samples", samples), ("train", train), ("test", test)):
        check_finite_features(name, one)
    count = min(len(train), len(test))
    train, test = _subset(train, count, generator), _subset(test, count, generator)
    (to_train, of_train), (to_test, of_test) = _nearest(samples, train), _nearest(samples, test)
    closer = (to_train < to_test).double() + 0.5 * (to_train == to_test).double()
    return Memorisation(to_train, to_test, nearest_neighbours(test, train), float(closer.mean()), _chance(closer, of_train, of_test, count))


def _chance(closer: Tensor, of_train: Tensor, of_test: Tensor, count: int) -> float:
    """The standard deviation of the share of samples nearest to a random half of both sets, each of `count` examples.

    The share is the sum of the shares w_i nearest to each example; for a random half of them it has variance N/(N-1) sum (w_i - 1/N)^2 / 4.
    """
    weights = torch.cat((of_train.bincount(closer, count), of_test.bincount(1 - closer, count))) / len(closer)
    return math.sqrt(float(weights.var(correction=1)) * len(weights) / 4)


def _subset(x: Tensor, count: int, generator: Generator | None) -> Tensor:
    """`count` random rows of x without replacement; x itself if that is all of them."""
    if count == len(x):
        return x
    return x[torch.randperm(len(x), generator=generator, device=x.device)[:count]]
