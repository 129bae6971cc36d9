"""Building blocks of the baselines: a mixture of Gaussians with arbitrary covariances, one such mixture per class, and one given others."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from pushforward.errors import ConditionError, ShapeError

CHUNK = 2**22  # elements per block of distances: 32 MiB in float64


class GaussianSum:
    """A fitted density: a weighted sum of Gaussians.

        p(x) = sum_k w_k N(x; m_k, S_k),    S_k = L_k L_k^T

    A Gaussian has one component, a kernel density estimate one per training example with a shared S. Computed in float64 on the
    CPU; log_prob (n,) in nats is returned in the dtype and on the device of x (n, *shape). `cond` is accepted and ignored.

    Args:
        weights: w (K,), summing to 1.
        means: m (K, D) in the units of the data.
        covariances: S (K, D, D), or (1, D, D) if shared.
        chosen: the settings selected on validation, for reports.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, chosen: Mapping[str, Any] | None = None) -> None:
        self.weights, self.means, self.factors = weights, means, torch.linalg.cholesky(covariances)
        self.chosen: dict[str, Any] = dict(chosen or {})

    def rescale(self, scale: Tensor) -> None:
        """Change the unit of each feature: x becomes scale x, with scale (D,) in float64."""
        self.means, self.factors = self.means * scale, self.factors * scale[:, None]

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return log p(x) (n,) in nats for x (n, *shape)."""
        events = x.detach().cpu().to(torch.float64).flatten(1)
        if events.shape[1] != self.means.shape[1]:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but this density was fitted on {self.means.shape[1]} values per example.")
        rows = max(1, CHUNK // max(len(self.weights), events.shape[1]))
        parts = [self._log_prob(block) for block in events.split(rows)]
        return (torch.cat(parts) if parts else events.new_zeros(0)).to(x.device, x.dtype)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Return n draws (n, D) in float64."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator) if n else torch.zeros(0, dtype=torch.int64)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        factors = self.factors.expand(len(self.weights), -1, -1)
        found = torch.empty_like(noise)
        for one in k.unique().tolist():
            rows = k == one
            found[rows] = self.means[one] + noise[rows] @ factors[one].T
        return found

    def posterior(self, x: Tensor) -> Tensor:
        """Return the probabilities (n, K) of the components given x (n, D) in float64."""
        return self._joint(x).softmax(1)

    def _log_prob(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self._joint(x), dim=1)

    def _joint(self, x: Tensor) -> Tensor:
        scale = self.factors.diagonal(dim1=1, dim2=2).log().sum(1) + x.shape[1] / 2 * math.log(2 * math.pi)
        return self.weights.log() - scale - squared_distances(x, self.means, self.factors) / 2


class PerClass:
    """A fitted density per class.

        p(x | c) = p_c(x),    p(x) = sum_c w_c p_c(x)

    `cond` (n,) are the classes; None gives the mixture over classes, weighted by their frequency in train.

    Args:
        parts: the density of each class.
        weights: w (classes,), the class frequencies, summing to 1.
        chosen: the settings selected on validation, for reports.
    """

    def __init__(self, parts: Sequence[GaussianSum], weights: Tensor, chosen: Mapping[str, Any] | None = None) -> None:
        self.parts, self.weights, self.chosen = list(parts), weights, dict(chosen or {})

    def rescale(self, scale: Tensor) -> None:
        """Change the unit of each feature: x becomes scale x, with scale (D,) in float64."""
        for part in self.parts:
            part.rescale(scale)

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return log p(x | c) (n,) in nats for x (n, *shape) and classes c (n,), or log p(x) for None."""
        if cond is None:
            each = torch.stack([part.log_prob(x) for part in self.parts])
            return torch.logsumexp(each + self.weights.log().to(each)[:, None], dim=0)
        if tuple(cond.shape) != (len(x),):
            raise ConditionError(f"cond has shape {tuple(cond.shape)}, but x of shape {tuple(x.shape)} needs ({len(x)},).")
        if len(cond) and not 0 <= int(cond.min()) <= int(cond.max()) < len(self.parts):
            raise ConditionError(
                f"cond is {int(cond.min())} to {int(cond.max())}, but this density has classes 0 to {len(self.parts) - 1}."
            )
        log_prob = x.new_zeros(len(x))
        for label in cond.unique().tolist():
            log_prob[cond == label] = self.parts[label].log_prob(x[cond == label])
        return log_prob

    def sample(self, cond: Tensor, generator: Generator | None = None) -> Tensor:
        """Return a draw (n, D) in float64 for each class (n,)."""
        found = torch.empty(len(cond), self.parts[0].means.shape[1], dtype=torch.float64)
        for label in cond.unique().tolist():
            found[cond == label] = self.parts[label].sample(int((cond == label).sum()), generator)
        return found


class ConditionalSum:
    """The conditional of a joint density of Gaussians, of the first D values given the others.

        p(x | c) = p(x, c) / p(c)

    Args:
        joint: the density of (x, c).
        features: D, how many values x has.
        chosen: the settings selected on validation, for reports.
    """

    def __init__(self, joint: GaussianSum, features: int, chosen: Mapping[str, Any] | None = None) -> None:
        self.joint, self.features, self.chosen = joint, features, dict(chosen or {})
        covariances = joint.factors @ joint.factors.mT
        self.marginal = GaussianSum(joint.weights, joint.means[:, features:], covariances[:, features:, features:])

    def rescale(self, scale: Tensor) -> None:
        """Change the unit of each value: (x, c) becomes scale (x, c), with scale (D + C,) in float64."""
        self.joint.rescale(scale)
        self.marginal.rescale(scale[self.features :])

    def log_prob(self, x: Tensor, cond: Tensor) -> Tensor:
        """Return log p(x | c) (n,) in nats for x (n, *shape) of D values and c (n, C).

        Raises:
            ConditionError: there is no condition for each x, or it has another length.
        """
        values = self.marginal.means.shape[1]
        if cond is None or tuple(cond.shape) != (len(x), values):
            shape = "None" if cond is None else f"of shape {tuple(cond.shape)}"
            raise ConditionError(f"cond is {shape}, but x of shape {tuple(x.shape)} needs ({len(x)}, {values}).")
        events, given = (one.detach().cpu().to(torch.float64).flatten(1) for one in (x, cond))
        found = self.joint.log_prob(torch.cat((events, given), dim=1)) - self.marginal.log_prob(given)
        return found.to(x.device, x.dtype)

    def sample(self, cond: Tensor, generator: Generator | None = None) -> Tensor:
        """Return a draw (n, D) in float64 for each condition (n, C): of a component by its posterior, then of its conditional Gaussian."""
        d, cond = self.features, cond.detach().cpu().double()
        found = torch.empty(len(cond), d, dtype=torch.float64)
        if not len(cond):
            return found
        k = torch.multinomial(self.marginal.posterior(cond), 1, generator=generator)[:, 0]
        noise = torch.randn(len(cond), d, generator=generator, dtype=torch.float64)
        covariances = (self.joint.factors @ self.joint.factors.mT).expand(len(self.joint.weights), -1, -1)
        for one in k.unique().tolist():
            rows, S = k == one, covariances[one]
            slope = torch.linalg.solve(S[d:, d:], S[d:, :d]).T
            factor = torch.linalg.cholesky(S[:d, :d] - slope @ S[d:, :d])
            centred = cond[rows] - self.joint.means[one, d:]
            found[rows] = self.joint.means[one, :d] + centred @ slope.T + noise[rows] @ factor.T
        return found


def squared_distances(x: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Return the squared Mahalanobis distances (n, K) of x (n, D) to means (K, D), for factors L (K, D, D) or a common (1, D, D)."""
    if len(factors) > 1 or len(means) == 1:
        columns = [
            torch.linalg.solve_triangular(factor, (x - mean).T, upper=False).square().sum(0)
            for mean, factor in zip(means, factors, strict=True)
        ]
        return torch.stack(columns, dim=1)
    centre = means.mean(0)  # centring reduces cancellation in |a - b|^2 = |a|^2 + |b|^2 - 2 a b
    a, b = (torch.linalg.solve_triangular(factors[0], (points - centre).T, upper=False).T for points in (x, means))
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)
