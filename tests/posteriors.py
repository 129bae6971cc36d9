"""Priors whose posterior under a linear measurement is known: a Gaussian of any covariance as a network, and a mixture of Gaussians."""

import torch
from torch import Tensor, nn

from pushforward.data.mixture import GaussianMixture
from pushforward.families.path_model import PathModel
from pushforward.paths.path import Path


class GaussianNet(nn.Module):
    """The exact prediction for data N(mean, covariance) along a path; with data (n, d) flattened from any event."""

    def __init__(self, mean: Tensor, covariance: Tensor, path: Path, prediction: str = "velocity") -> None:
        super().__init__()
        self.mean, self.path, self.prediction = mean, path, prediction
        self.covariance = nn.Parameter(covariance)

    def forward(self, x, t, cond=None):
        rows = x.flatten(1)
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        mean = self.mean if cond is None else self.mean + cond[:, None]
        total = alpha[..., None] ** 2 * self.covariance + sigma[..., None] ** 2 * torch.eye(rows.shape[1])
        whitened = torch.linalg.solve(total, (rows - alpha * mean)[..., None])[..., 0]
        data, noise = mean + alpha * whitened @ self.covariance, sigma * whitened
        if self.prediction == "velocity":
            made = self.path.alpha_dot(t)[:, None] * data + self.path.sigma_dot(t)[:, None] * noise
        else:
            made = {"data": data, "noise": noise, "score": -whitened}[self.prediction]
        return made.view_as(x)


def gaussian_model(mean, covariance, path, prediction="velocity", shape=None, **options) -> PathModel:
    """Return the model that perfect training on a Gaussian would give."""
    return PathModel(GaussianNet(mean, covariance, path, prediction), shape or tuple(mean.shape), path, prediction, **options)


def conditioned(mean: Tensor, covariance: Tensor, operator: Tensor, noise: Tensor | float, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of a Gaussian given y = operator x + noise n."""
    error = torch.eye(len(operator)) * torch.as_tensor(noise) ** 2
    gain = covariance @ operator.T @ torch.linalg.inv(operator @ covariance @ operator.T + error)
    return mean + gain @ (y - operator @ mean), covariance - gain @ operator @ covariance


class MixturePosterior:
    """The posterior of a mixture of isotropic Gaussians given y = operator x + noise n: a mixture of Gaussians again."""

    def __init__(self, prior: GaussianMixture, operator: Tensor, noise: float, y: Tensor) -> None:
        eye, m = torch.eye(prior.means.shape[1]), len(operator)
        parts = [conditioned(mean, std**2 * eye, operator, noise, y) for mean, std in zip(prior.means, prior.stds, strict=True)]
        self.means, self.covariances = (torch.stack(part) for part in zip(*parts, strict=True))
        evidence = [
            torch.distributions.MultivariateNormal(operator @ mean, std**2 * operator @ operator.T + noise**2 * torch.eye(m)).log_prob(y)
            for mean, std in zip(prior.means, prior.stds, strict=True)
        ]
        self.weights = (prior.weights.log() + torch.stack(evidence)).softmax(0)

    @property
    def mean(self) -> Tensor:
        return self.weights @ self.means

    def sample(self, n: int, generator=None) -> Tensor:
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        factors = torch.linalg.cholesky(self.covariances + 1e-12 * torch.eye(self.means.shape[1]))
        noise = torch.randn(n, self.means.shape[1], generator=generator)
        return self.means[chosen] + (factors[chosen] @ noise[..., None])[..., 0]


def coverage(samples: Tensor, truths: Tensor, level: float = 0.8) -> float:
    """Return how often truths (k, d) lie in the central interval of their posterior samples (k, n, d), by element."""
    low, high = (samples.quantile(q, dim=1) for q in ((1 - level) / 2, (1 + level) / 2))
    return float(((truths >= low) & (truths <= high)).double().mean())
