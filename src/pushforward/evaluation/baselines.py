"""Baseline densities, regularised on validation: Gaussian, kernel density and Gaussian mixture, pooled, per class, and given columns.

All are sums of Gaussians (`GaussianSum`) with different numbers of components and covariances. Settings are selected on validation
jointly for all classes, since a single class has too few examples. The dequantisation noise of data with levels enters the fit through
its moments (mean 1/2, variance 1/12 in each column with levels), as if infinitely many draws were fitted; validation examples are
dequantised by sampling.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator

from pushforward import _random
from pushforward.data.dataset import Dataset
from pushforward.data.given import as_datasets
from pushforward.errors import DataError, UserError
from pushforward.evaluation import builds
from pushforward.evaluation.builds import Baseline, Sample, covariance_of, groups_of, kernels, within_class
from pushforward.evaluation.gaussians import GaussianSum, PerClass
from pushforward.functional.levels import cells, spread
from pushforward.registry import export, unknown

SHARES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.4)  # shrinkage weights of the covariance target
RIDGES = (1e-6, 1e-3, 3e-3, 1e-2, 3e-2)  # times the mean variance
BANDWIDTHS = (0.015, 0.03, 0.06, 0.12, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)  # times the standard deviation of the data
ROUNDNESS = (0.0, 0.01, 0.1, 1.0)  # of a kernel: 0 has the shape of the data, 1 is isotropic
COMPONENTS = (3, 6, 9, 12, 18, 30)
COMPONENTS_PER_CLASS = (1, 2, 3, 6, 12)
FIT_RIDGES = (1e-3, 1e-2)  # of the fit of a mixture
MIXTURES = 256  # largest dimension for Gaussian mixtures, with its conditions': larger full covariances take minutes
FITTED = 10_000  # training examples used at most: larger kernel densities take minutes per evaluation
VALIDATION = 1000  # validation examples used at most
KERNELS = 2**21  # kernel evaluations per setting, at most: a kernel density needs one per training example and row
DRAWS = 2  # dequantisation draws per validation example


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

    Where the conditions are vectors, as of a table with given columns, those with "_given" are the conditional density of a joint one of
    rows and conditions (together 256 values at most), whose settings are the best for log p(x | c).

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
        ones give log p(x | c) for labels, and the mixture over classes (weighted by their frequency in train) for None; those given
        conditions give log p(x | c) for vectors (n, C).

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
    return selected(train, validation, generator, only)


def selected(
    train: Dataset,
    validation: Dataset,
    generator: Generator | None,
    only: Sequence[str] | None,
    fit_ridges: Sequence[float] = FIT_RIDGES,
) -> dict[str, Baseline]:
    """Fit baselines to data sets, as `fit_baselines` does, with these ridges of the fits of mixtures."""
    if train.shape != validation.shape or train.levels != validation.levels:
        raise DataError(f"train is {train!r} and validation {validation!r}, but both must have the same shape and levels.")
    sample = _sample(train, validation, generator)
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    fits: dict[str, Callable[[], Baseline]] = {"gaussian": lambda: _gaussian(sample), "kernel_density": lambda: _kernel_density(sample)}
    mixtures = sample.x.shape[1] <= MIXTURES
    if mixtures:
        fits["gaussian_mixture"] = lambda: _gaussian_mixture(sample, seed, fit_ridges)
    if sample.labels is not None and int(sample.labels.bincount(minlength=sample.classes).min()) >= 2:
        fits["gaussian_per_class"] = lambda: _gaussian_per_class(sample)
        fits["kernel_density_per_class"] = lambda: _kernel_density_per_class(sample)
        if mixtures:
            fits["gaussian_mixture_per_class"] = lambda: _gaussian_mixture_per_class(sample, seed, fit_ridges)
    joint = _joint(sample, train, validation)
    if joint is not None and joint.x.shape[1] <= MIXTURES:
        fits["gaussian_given"] = lambda: _gaussian(joint, of=builds.given)
        fits["kernel_density_given"] = lambda: _kernel_density(joint, of=builds.given)
        fits["gaussian_mixture_given"] = lambda: _gaussian_mixture(joint, seed, fit_ridges, of=builds.given)
    for name in only or ():
        if name not in fits:
            raise UserError(unknown("baseline", name, fits))
    fitted = {name: fit() for name, fit in fits.items() if only is None or name in only}
    for name, density in fitted.items():
        density.rescale(joint.scale if joint is not None and name.endswith("_given") else sample.scale)
    return fitted


def _sample(train: Dataset, validation: Dataset, generator: Generator | None) -> Sample:
    held, train = validation.take(min(VALIDATION, len(validation))), train.take(min(FITTED, len(train)))
    x, labels = train.x.cpu().to(torch.float64).flatten(1), train.cond
    rows, row_labels = held.x.cpu().to(torch.float64).flatten(1), held.cond
    has_labels = train.classes is not None and validation.classes is not None
    width = cells(train.levels, x)
    if train.levels is not None:
        x = x + 0.5 * width
        rows = rows.repeat(DRAWS, 1)
        rows = spread(rows, train.levels, _random.uniform(rows.shape, generator, rows.device, rows.dtype))
        row_labels = row_labels.repeat(DRAWS) if has_labels and row_labels is not None else None
    width = width.expand(x.shape[1])
    deviation = x.std(0, correction=0)
    scale = torch.where((deviation > 0) & (not isinstance(train.levels, int)), deviation, 1.0)
    held_labels = row_labels if has_labels else None
    noise = width / 12 / scale.square()
    return Sample(x / scale, labels if has_labels else None, noise, rows / scale, held_labels, train.classes or 0, scale)


def _joint(sample: Sample, train: Dataset, validation: Dataset) -> Sample | None:
    """Return a sample whose rows are followed by their conditions, divided by these' deviations; None if conditions are no vectors."""
    vectors = [one.cond for one in (train, validation) if one.cond is not None and one.cond.ndim == 2]
    if len(vectors) < 2 or vectors[0].shape[1] != vectors[1].shape[1]:
        return None
    cond, held = (one.cpu().to(torch.float64)[:rows] for one, rows in zip(vectors, (FITTED, VALIDATION), strict=True))
    deviation = cond.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    return dataclasses.replace(
        sample,
        x=torch.cat((sample.x, cond / scale), dim=1),
        noise=torch.cat((sample.noise, torch.zeros_like(scale))),
        held_labels=(held / scale).repeat(len(sample.held) // len(held), 1),
        scale=torch.cat((sample.scale, scale)),
    )


def refit(name: str, chosen: Mapping[str, Any], data: Dataset, generator: Generator | None = None, least: float = 0.0) -> Baseline:
    """Return a density of `fit_baselines` with the settings of another, such as one that was fitted without a part of the data.

    Args:
        name: "gaussian" or "gaussian_mixture", or either with "_per_class" or "_given".
        chosen: the settings, as in `chosen` of a density of this name.
        data: the set to fit on, its first 10,000 examples at most.
        generator: random generator of the mixture initialisation.
        least: rows of a component below which it is left out of a mixture: one around an outlier would make that row likely.
    """
    sample = _sample(data, data, generator)
    sample = _joint(sample, data, data) or sample if name.endswith("_given") else sample
    density = builds.BUILDS[name](sample, int(torch.randint(2**31 - 1, (), generator=generator)), least)(*chosen.values())
    density.chosen = dict(chosen)
    density.rescale(sample.scale)
    return density


Of = Callable[[Callable[..., GaussianSum], Sample], Callable[..., Any]]  # what is selected of a density of the sample


def _itself(build: Callable[..., GaussianSum], sample: Sample) -> Callable[..., GaussianSum]:
    return build


def _gaussian(sample: Sample, of: Of = _itself) -> Any:
    return _best(of(builds.gaussian(sample), sample), itertools.product(SHARES, RIDGES), sample, ("share", "ridge"))


def _gaussian_per_class(sample: Sample) -> PerClass:
    return _best(builds.gaussian_per_class(sample), itertools.product(SHARES, RIDGES), sample, ("share", "ridge"))


def _kernel_density(sample: Sample, of: Of = _itself) -> Any:
    covariance = covariance_of(sample.x, sample.noise)

    def build(bandwidth: float, roundness: float) -> GaussianSum:
        return kernels(sample.x, covariance, bandwidth, roundness)

    return _best_kernel(of(build, sample), sample)


def _kernel_density_per_class(sample: Sample) -> PerClass:
    groups, weights = groups_of(sample)
    within = within_class(sample, groups, weights)[1]

    def build(bandwidth: float, roundness: float) -> PerClass:
        return PerClass([kernels(x, within, bandwidth, roundness) for x in groups], weights)

    return _best_kernel(build, sample)


def _best_kernel(build: Callable[..., Any], sample: Sample) -> Any:
    names = ("bandwidth", "roundness")
    rows = max(200, KERNELS // len(sample.x))
    coarse = _best(build, itertools.product(BANDWIDTHS, ROUNDNESS), sample, names, rows).chosen
    widths = [coarse["bandwidth"] * factor for factor in (0.8, 0.87, 0.93, 1.0, 1.08, 1.16, 1.25)]
    rounder = [coarse["roundness"]] if coarse["roundness"] in (0, 1) else [coarse["roundness"] * factor for factor in (0.3, 1, 3)]
    return _best(build, itertools.product(widths, rounder), sample, names, 2 * rows)


def _gaussian_mixture(sample: Sample, seed: int, ridges: Sequence[float], of: Of = _itself) -> Any:
    return _best_mixture(of(builds.gaussian_mixture(sample, seed), sample), COMPONENTS, ridges, sample)


def _gaussian_mixture_per_class(sample: Sample, seed: int, ridges: Sequence[float]) -> PerClass:
    return _best_mixture(builds.gaussian_mixture_per_class(sample, seed), COMPONENTS_PER_CLASS, ridges, sample)


def _best_mixture(build: Callable[..., Any], counts: Sequence[int], ridges: Sequence[float], sample: Sample) -> Any:
    """Select the best fit at a medium shrinkage, then the best shrinkage."""
    names, fits = ("components", "fit_ridge", "share", "ridge"), itertools.product(counts, ridges)
    first = _best(build, [(*fit, share, RIDGES[0]) for fit in fits for share in (0.03, 0.2)], sample, names).chosen
    fit = (first["components"], first["fit_ridge"])
    return _best(build, [(*fit, share, ridge) for share in SHARES for ridge in RIDGES[:4]], sample, names)


def _best(build: Callable[..., Any], grid: Iterable[tuple[Any, ...]], sample: Sample, names: Sequence[str], rows: int | None = None) -> Any:
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
