"""The baseline densities as functions of their settings: Gaussian, kernels and mixtures, pooled, per class, and given others."""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.evaluation.gaussians import ConditionalSum, GaussianSum, PerClass

Baseline = GaussianSum | PerClass | ConditionalSum
FLOOR = 1e-6  # ridge of kernels, times the mean variance


@dataclass(frozen=True)
class Sample:
    """Train and validation as float64: centres (N, D), the noise's variances (D,), and validation rows (M, D) with their labels.

    Columns of a table are divided by their deviation in train, so that no density depends on the units; pixels have one unit already.
    With conditions of C values for `given` densities, x is (N, D + C) with these last, and the labels of held rows are theirs (M, C).
    """

    x: Tensor
    labels: Tensor | None
    noise: Tensor
    held: Tensor
    held_labels: Tensor | None
    classes: int
    scale: Tensor  # (D,), by which the rows were divided


def gaussian(sample: Sample, seed: int = 0, least: float = 0.0) -> Callable[..., GaussianSum]:
    """Return a Gaussian as a function of share and ridge."""
    mean, covariance = sample.x.mean(0)[None], covariance_of(sample.x, sample.noise)

    def build(share: float, ridge: float) -> GaussianSum:
        return GaussianSum(torch.ones(1), mean, _shrunk(covariance[None], covariance.diag().diag(), share, ridge))

    return build


def gaussian_per_class(sample: Sample, seed: int = 0, least: float = 0.0) -> Callable[..., PerClass]:
    """Return a Gaussian per class as a function of share and ridge."""
    groups, weights = groups_of(sample)
    covariances, within = within_class(sample, groups, weights)

    def build(share: float, ridge: float) -> PerClass:
        shrunk = _shrunk(covariances, within, share, ridge)
        return PerClass([GaussianSum(torch.ones(1), x.mean(0)[None], S[None]) for x, S in zip(groups, shrunk, strict=True)], weights)

    return build


def kernels(x: Tensor, covariance: Tensor, bandwidth: float, roundness: float) -> GaussianSum:
    """Return a kernel density: one kernel per row."""
    ball = covariance.diag().mean() * torch.eye(x.shape[1], dtype=x.dtype)
    kernel = bandwidth**2 * _shrunk(covariance[None], ball, roundness, FLOOR)
    return GaussianSum(torch.full((len(x),), 1 / len(x), dtype=x.dtype), x, kernel)


def gaussian_mixture(sample: Sample, seed: int, least: float = 0.0) -> Callable[..., GaussianSum]:
    """Return a mixture of Gaussians as a function of components, ridge of the fit, share and ridge."""

    @functools.cache
    def fit(count: int, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
        return _expectation_maximisation(sample.x, count, ridge, sample.noise, seed, least)

    def build(count: int, fit_ridge: float, share: float, ridge: float) -> GaussianSum:
        weights, means, covariances = fit(count, fit_ridge)
        return GaussianSum(weights, means, _shrunk(covariances, torch.einsum("k,kij->ij", weights, covariances), share, ridge))

    return build


def gaussian_mixture_per_class(sample: Sample, seed: int, least: float = 0.0) -> Callable[..., PerClass]:
    """Return a mixture per class as a function of components, ridge of the fit, share and ridge."""
    groups, weights = groups_of(sample)
    within = within_class(sample, groups, weights)[1]

    @functools.cache
    def fit(count: int, ridge: float) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [_expectation_maximisation(x, count, ridge, sample.noise, seed, least) for x in groups]

    def build(count: int, fit_ridge: float, share: float, ridge: float) -> PerClass:
        parts = [GaussianSum(w, means, _shrunk(covariances, within, share, ridge)) for w, means, covariances in fit(count, fit_ridge)]
        return PerClass(parts, weights)

    return build


def _expectation_maximisation(x: Tensor, count: int, ridge: float, noise: Tensor, seed: int, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, means and covariances of a mixture, without components that have fewer than `least` rows."""
    from sklearn.mixture import GaussianMixture  # importing it takes half a second, only needed for fitting

    regularisation = float(noise.min()) + ridge * float(x.var(0, correction=0).mean())
    mixture = GaussianMixture(min(count, len(x)), reg_covar=max(regularisation, 1e-12), max_iter=100, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no convergence, or too few distinct points: validation decides
        mixture.fit(x.numpy())
    covariances = torch.from_numpy(mixture.covariances_) + (noise - noise.min()).diag()  # the fit adds the same term in each column
    weights = torch.from_numpy(mixture.weights_)
    kept = weights * len(x) >= min(least, float(weights.max()) * len(x))
    return weights[kept] / weights[kept].sum(), torch.from_numpy(mixture.means_)[kept], covariances[kept]


def covariance_of(x: Tensor, noise: Tensor) -> Tensor:
    """Return the covariance (D, D) of rows with noise of these variances."""
    return torch.cov(x.T, correction=0).reshape(x.shape[1], x.shape[1]) + noise.diag()


def _shrunk(covariances: Tensor, target: Tensor, share: float, ridge: float) -> Tensor:
    """(1 - share) S + share target + ridge s I for S (K, D, D), with s the mean variance of the target."""
    identity = torch.eye(target.shape[0], dtype=target.dtype)
    return (1 - share) * covariances + share * target + ridge * target.diag().mean() * identity


def groups_of(sample: Sample) -> tuple[list[Tensor], Tensor]:
    """The training rows and the relative frequency of each class."""
    assert sample.labels is not None
    groups = [sample.x[sample.labels == label] for label in range(sample.classes)]
    return groups, torch.tensor([len(x) / len(sample.x) for x in groups], dtype=torch.float64)


def within_class(sample: Sample, groups: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of each class (classes, D, D), and their mean weighted by class frequency."""
    covariances = torch.stack([covariance_of(x, sample.noise) for x in groups])
    return covariances, torch.einsum("k,kij->ij", weights, covariances)


def given(build: Callable[..., GaussianSum], sample: Sample) -> Callable[..., ConditionalSum]:
    """Return the conditional of a joint density of rows and their conditions as a function of the joint's settings."""
    return lambda *settings: ConditionalSum(build(*settings), sample.held.shape[1])


BUILDS: dict[str, Callable[[Sample, int, float], Callable[..., Baseline]]] = {
    "gaussian": gaussian,
    "gaussian_per_class": gaussian_per_class,
    "gaussian_mixture": gaussian_mixture,
    "gaussian_mixture_per_class": gaussian_mixture_per_class,
    "gaussian_given": lambda sample, seed, least: given(gaussian(sample, seed, least), sample),
    "gaussian_mixture_given": lambda sample, seed, least: given(gaussian_mixture(sample, seed, least), sample),
}
