"""Baseline densities, regularised on validation: Gaussian, kernel density and Gaussian mixture, pooled and per class.

All are sums of Gaussians (`GaussianSum`) with different numbers of components and covariances. Settings are selected on validation
jointly for all classes, since a single class has too few examples. The dequantisation noise of data with levels enters the fit through
its moments (mean 1/2, variance 1/12 in each column with levels), as if infinitely many draws were fitted; validation examples are
dequantised by sampling.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from pushforward import _random
from pushforward.data.dataset import Dataset
from pushforward.data.given import as_datasets
from pushforward.errors import DataError, UserError
from pushforward.evaluation.gaussians import GaussianSum, PerClass
from pushforward.functional.levels import cells, spread
from pushforward.registry import export, unknown

Baseline = GaussianSum | PerClass
SHARES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4)  # shrinkage weights of the covariance target
RIDGES = (1e-6, 1e-3, 3e-3, 1e-2, 3e-2)  # times the mean variance
BANDWIDTHS = (0.015, 0.03, 0.06, 0.12, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)  # times the standard deviation of the data
ROUNDNESS = (0.0, 0.01, 0.1, 1.0)  # of a kernel: 0 has the shape of the data, 1 is isotropic
COMPONENTS = (3, 6, 9, 12, 18, 30)
COMPONENTS_PER_CLASS = (1, 2, 3, 6, 12)
MIXTURES = 256  # largest dimension for Gaussian mixtures: larger full covariances take minutes
FITTED = 10_000  # training examples used at most: larger kernel densities take minutes per evaluation
VALIDATION = 1000  # validation examples used at most
KERNELS = 2**21  # kernel evaluations per setting, at most: a kernel density needs one per training example and row
DRAWS = 2  # dequantisation draws per validation example


@dataclass(frozen=True)
class _Sample:
    """Train and validation as float64: centres (N, D), the noise's variances (D,), and validation rows (M, D) with their labels.

    Columns of a table are divided by their deviation in train, so that no density depends on the units; pixels have one unit already.
    """

    x: Tensor
    labels: Tensor | None
    noise: Tensor
    held: Tensor
    held_labels: Tensor | None
    classes: int
    scale: Tensor  # (D,), by which the rows were divided


@export("evaluation.fit_baselines")
def fit_baselines(
    train: Any, validation: Any, generator: Generator | None = None, *, only: Sequence[str] | None = None
) -> dict[str, Baseline]:
    """Fit baseline densities, with regularisation selected on validation.

        gaussian            S = (1 - a) C + a diag(C) + r I                      pooled; per class a shrinks towards the common
                                                                                 within-class covariance (Friedman)
        kernel_density      one kernel per example, S = h^2 ((1 - a) C + a s I)   C the covariance, s the mean variance
        gaussian_mixture    scikit-learn's, full covariances, each shrunk towards their mean (per class: the within-class one); up to 256
                            dimensions

    C is the covariance of features in units of their deviation, of pixels in levels. Each is fitted pooled and, if all
    classes have at least two training examples, also per class under the name with "_per_class". The values of a, r, h and the number of
    components maximise log p on validation; they are stored in `chosen`.

    Args:
        train: the set to fit on, its first 10,000 examples at most, x (N, *shape) of D values, dequantised if it has levels; or a
            DataFrame, array, tensor or map-style set.
        validation: the set to select on.
        generator: random generator of the validation noise and the mixture initialisation.
        only: names of the densities to fit; None for all.

    Returns:
        Name to density, with log_prob(x, cond=None) -> (n,) nats in the units of the data, for `bits_per_dim`. The per-class
        ones give log p(x | c) for labels, and the mixture over classes (weighted by their frequency in train) for None.

    Raises:
        DataError: train and validation differ in shape or levels.
        UserError: `only` has a name that is none of these.

    Example:
        >>> from pushforward import data, evaluation
        >>> train, validation = data.load("moons", n=200), data.load("moons", "validation", n=100)
        >>> sorted(evaluation.fit_baselines(train, validation))[:3]
        ['gaussian', 'gaussian_mixture', 'gaussian_mixture_per_class']

    Source: Friedman, Regularized discriminant analysis, 1989 (shrinkage); Silverman, Density estimation, 1986 (kernels);
    sklearn.mixture.GaussianMixture. Cost: 3 to 4 s for the digits on one core.
    """
    train, validation = as_datasets(train, validation)
    if train.shape != validation.shape or train.levels != validation.levels:
        raise DataError(f"train is {train!r} and validation {validation!r}, but both must have the same shape and levels.")
    sample = _sample(train, validation, generator)
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    fits: dict[str, Callable[[], Baseline]] = {"gaussian": lambda: _gaussian(sample), "kernel_density": lambda: _kernel_density(sample)}
    mixtures = sample.x.shape[1] <= MIXTURES
    if mixtures:
        fits["gaussian_mixture"] = lambda: _gaussian_mixture(sample, seed)
    if sample.labels is not None and int(sample.labels.bincount(minlength=sample.classes).min()) >= 2:
        fits["gaussian_per_class"] = lambda: _gaussian_per_class(sample)
        fits["kernel_density_per_class"] = lambda: _kernel_density_per_class(sample)
        if mixtures:
            fits["gaussian_mixture_per_class"] = lambda: _gaussian_mixture_per_class(sample, seed)
    for name in only or ():
        if name not in fits:
            raise UserError(unknown("baseline", name, fits))
    fitted = {name: fit() for name, fit in fits.items() if only is None or name in only}
    for density in fitted.values():
        density.rescale(sample.scale)
    return fitted


def _sample(train: Dataset, validation: Dataset, generator: Generator | None) -> _Sample:
    held, train = validation.take(min(VALIDATION, len(validation))), train.take(min(FITTED, len(train)))
    x, labels = train.x.cpu().to(torch.float64).flatten(1), train.cond
    rows, row_labels = held.x.cpu().to(torch.float64).flatten(1), held.cond
    has_labels = train.classes is not None and validation.classes is not None
    width = cells(train.levels, x)
    if train.levels is not None:
        x = x + 0.5 * width
        rows = rows.repeat(DRAWS, 1)
        rows = spread(rows, train.levels, _random.uniform(rows.shape, generator, rows.device, rows.dtype))
        row_labels = None if row_labels is None else row_labels.repeat(DRAWS)
    width = width.expand(x.shape[1])
    deviation = x.std(0, correction=0)
    scale = torch.where((deviation > 0) & (not isinstance(train.levels, int)), deviation, 1.0)
    held_labels = row_labels if has_labels else None
    noise = width / 12 / scale.square()
    return _Sample(x / scale, labels if has_labels else None, noise, rows / scale, held_labels, train.classes or 0, scale)


def _gaussian(sample: _Sample) -> GaussianSum:
    mean, covariance = sample.x.mean(0)[None], _covariance(sample.x, sample.noise)

    def build(share: float, ridge: float) -> GaussianSum:
        return GaussianSum(torch.ones(1), mean, _shrunk(covariance[None], covariance.diag().diag(), share, ridge))

    return _best(build, itertools.product(SHARES, RIDGES), sample, ("share", "ridge"))


def _gaussian_per_class(sample: _Sample) -> PerClass:
    groups, weights = _groups(sample)
    covariances, within = _within_class(sample, groups, weights)

    def build(share: float, ridge: float) -> PerClass:
        shrunk = _shrunk(covariances, within, share, ridge)
        return PerClass([GaussianSum(torch.ones(1), x.mean(0)[None], S[None]) for x, S in zip(groups, shrunk, strict=True)], weights)

    return _best(build, itertools.product(SHARES, RIDGES), sample, ("share", "ridge"))


def _kernel_density(sample: _Sample) -> GaussianSum:
    covariance = _covariance(sample.x, sample.noise)

    def build(bandwidth: float, roundness: float) -> GaussianSum:
        return _kernels(sample.x, covariance, bandwidth, roundness)

    return _best_kernel(build, sample)


def _kernel_density_per_class(sample: _Sample) -> PerClass:
    groups, weights = _groups(sample)
    within = _within_class(sample, groups, weights)[1]

    def build(bandwidth: float, roundness: float) -> PerClass:
        return PerClass([_kernels(x, within, bandwidth, roundness) for x in groups], weights)

    return _best_kernel(build, sample)


def _kernels(x: Tensor, covariance: Tensor, bandwidth: float, roundness: float) -> GaussianSum:
    ball = covariance.diag().mean() * torch.eye(x.shape[1], dtype=x.dtype)
    kernel = bandwidth**2 * _shrunk(covariance[None], ball, roundness, RIDGES[0])
    return GaussianSum(torch.full((len(x),), 1 / len(x), dtype=x.dtype), x, kernel)


def _best_kernel(build: Callable[..., Any], sample: _Sample) -> Any:
    names = ("bandwidth", "roundness")
    rows = max(200, KERNELS // len(sample.x))
    coarse = _best(build, itertools.product(BANDWIDTHS, ROUNDNESS), sample, names, rows).chosen
    widths = [coarse["bandwidth"] * factor for factor in (0.8, 0.87, 0.93, 1.0, 1.08, 1.16, 1.25)]
    rounder = [coarse["roundness"]] if coarse["roundness"] in (0, 1) else [coarse["roundness"] * factor for factor in (0.3, 1, 3)]
    return _best(build, itertools.product(widths, rounder), sample, names, 2 * rows)


def _gaussian_mixture(sample: _Sample, seed: int) -> GaussianSum:
    fits = {
        (count, ridge): _expectation_maximisation(sample.x, count, ridge, sample.noise, seed)
        for count in COMPONENTS
        for ridge in (1e-3, 1e-2)
    }

    def build(count: int, fit_ridge: float, share: float, ridge: float) -> GaussianSum:
        weights, means, covariances = fits[count, fit_ridge]
        return GaussianSum(weights, means, _shrunk(covariances, torch.einsum("k,kij->ij", weights, covariances), share, ridge))

    return _best_mixture(build, list(fits), sample)


def _gaussian_mixture_per_class(sample: _Sample, seed: int) -> PerClass:
    groups, weights = _groups(sample)
    within = _within_class(sample, groups, weights)[1]
    fits = {
        (count, ridge): [_expectation_maximisation(x, count, ridge, sample.noise, seed) for x in groups]
        for count in COMPONENTS_PER_CLASS
        for ridge in (1e-3, 1e-2)
    }

    def build(count: int, fit_ridge: float, share: float, ridge: float) -> PerClass:
        parts = [GaussianSum(w, means, _shrunk(covariances, within, share, ridge)) for w, means, covariances in fits[count, fit_ridge]]
        return PerClass(parts, weights)

    return _best_mixture(build, list(fits), sample)


def _best_mixture(build: Callable[..., Any], fits: Sequence[tuple[int, float]], sample: _Sample) -> Any:
    """Select the best fit at a medium shrinkage, then the best shrinkage."""
    names = ("components", "fit_ridge", "share", "ridge")
    first = _best(build, [(*fit, share, RIDGES[0]) for fit in fits for share in (0.03, 0.2)], sample, names).chosen
    fit = (first["components"], first["fit_ridge"])
    return _best(build, [(*fit, share, ridge) for share in SHARES for ridge in RIDGES[:4]], sample, names)


def _expectation_maximisation(x: Tensor, count: int, ridge: float, noise: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    from sklearn.mixture import GaussianMixture  # importing it takes half a second, only needed for fitting

    regularisation = float(noise.min()) + ridge * float(x.var(0, correction=0).mean())
    mixture = GaussianMixture(min(count, len(x)), reg_covar=max(regularisation, 1e-12), max_iter=100, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no convergence, or too few distinct points: validation decides
        mixture.fit(x.numpy())
    covariances = torch.from_numpy(mixture.covariances_) + (noise - noise.min()).diag()  # the fit adds the same term in each column
    return torch.from_numpy(mixture.weights_), torch.from_numpy(mixture.means_), covariances


def _best(
    build: Callable[..., Any], grid: Iterable[tuple[Any, ...]], sample: _Sample, names: Sequence[str], rows: int | None = None
) -> Any:
    """Return the density build(*settings) with the highest mean log p on (the first rows of) validation; settings in `chosen`."""
    best, highest = None, -math.inf
    held, labels = sample.held[:rows], None if sample.held_labels is None else sample.held_labels[:rows]
    for settings in grid:
        try:
            density = build(*settings)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # a rank-deficient covariance: stronger regularisation will work
            continue
        value = float(density.log_prob(held, labels).mean())
        if value > highest:
            best, highest = density, value
            density.chosen = dict(zip(names, settings, strict=True))
    if best is None:
        raise DataError("no baseline fits: every covariance is singular or validation has probability 0; are all examples equal?")
    return best


def _covariance(x: Tensor, noise: Tensor) -> Tensor:
    return torch.cov(x.T, correction=0).reshape(x.shape[1], x.shape[1]) + noise.diag()


def _shrunk(covariances: Tensor, target: Tensor, share: float, ridge: float) -> Tensor:
    """(1 - share) S + share target + ridge s I for S (K, D, D), with s the mean variance of the target."""
    identity = torch.eye(target.shape[0], dtype=target.dtype)
    return (1 - share) * covariances + share * target + ridge * target.diag().mean() * identity


def _groups(sample: _Sample) -> tuple[list[Tensor], Tensor]:
    """The training rows and the relative frequency of each class."""
    assert sample.labels is not None
    groups = [sample.x[sample.labels == label] for label in range(sample.classes)]
    return groups, torch.tensor([len(x) / len(sample.x) for x in groups], dtype=torch.float64)


def _within_class(sample: _Sample, groups: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of each class (classes, D, D), and their mean weighted by class frequency."""
    covariances = torch.stack([_covariance(x, sample.noise) for x in groups])
    return covariances, torch.einsum("k,kij->ij", weights, covariances)
