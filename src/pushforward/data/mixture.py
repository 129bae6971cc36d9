"""The analytic ground truth: a mixture of isotropic Gaussians, whose density, score and predictions along a path are in closed form.

If x_0 is such a mixture and x_t = alpha x_0 + sigma eps with eps ~ N(0, I), then x_t is one too, with component variances
v_k = alpha^2 s_k^2 + sigma^2, and with r_k(x) the probability of component k given x_t = x

    E[x_0 | x] = sum_k r_k (sigma^2 m_k + alpha s_k^2 x) / v_k,    E[eps | x] = sum_k r_k sigma (x - alpha m_k) / v_k,

which divide by neither alpha nor sigma and so are valid at both ends of a path.
"""

import copy
import math

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward.data.dataset import Dataset
from pushforward.data.densities import drawn
from pushforward.errors import ConditionError, DtypeError, ShapeError, UserError
from pushforward.functional.prediction import KINDS, Kind, per_row
from pushforward.paths.path import Path
from pushforward.registry import export, unknown


@export("data.GaussianMixture", example=lambda: (GaussianMixture(torch.tensor([[-1.0, 0.0], [2.0, 1.0]]), 0.5), torch.randn(4, 2)))
class GaussianMixture(nn.Module):
    """A mixture of isotropic Gaussians: the ground truth that samplers, likelihoods and losses are tested against.

        p(x) = sum_k w_k N(x; m_k, s_k^2 I)

    Shapes: x (n, *shape), log_prob (n,) in nats, score and posterior mean (n, *shape), all in the dtype of the means. `cond` is the
    component (n,), or K (the null label) or None for the whole mixture. Exact to rounding, at alpha = 0 and sigma = 0 too.
    Raises UserError for a standard deviation or weight that is not positive, ShapeError and DtypeError for x of another shape or
    dtype, ConditionError for a component out of range.

    Args:
        means: m (K, *shape), float64 or float32.
        stds: s, one number or (K,), in the units of x.
        weights: w (K,), normalised to sum 1; equal by default.

    Example:
        >>> import torch
        >>> from pushforward import data
        >>> mixture = data.GaussianMixture(torch.tensor([[-2.0], [2.0]]), stds=0.5)
        >>> mixture.log_prob(torch.tensor([[2.0], [0.0]]))
        tensor([-0.9189, -8.2258])
        >>> mixture.posterior_mean(torch.tensor([[0.3]]), alpha=torch.tensor([0.0]), sigma=torch.tensor([1.0]))
        tensor([[0.]])

    Source: Bishop, Pattern Recognition and Machine Learning, 2006, section 2.3.3 (conditional Gaussians), for each component.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def __init__(self, means: Tensor, stds: Tensor | float, weights: Tensor | None = None) -> None:
        super().__init__()
        means = torch.as_tensor(means)
        if means.ndim < 2 or len(means) == 0 or not means.is_floating_point():
            raise UserError(
                f"means has shape {tuple(means.shape)} and dtype {means.dtype}, but must be floating point of shape (K, *shape)."
            )
        count = len(means)
        weights = torch.ones(count) if weights is None else weights
        for name, values in (("stds", stds), ("weights", weights)):
            held = torch.as_tensor(values, dtype=means.dtype, device=means.device)
            if held.ndim > 1 or (held.ndim == 1 and len(held) != count):
                raise UserError(f"{name} has shape {tuple(held.shape)}, but {count} components need shape ({count},) or one number.")
            if not (held > 0).all():
                raise UserError(f"{name} is {held.tolist()}, but must be positive; leave out components that have none.")
            self.register_buffer(name, held.expand(count).clone())
        self.register_buffer("means", means.detach().clone())
        self.weights /= self.weights.sum()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one event."""
        return tuple(self.means.shape[1:])

    def sample(self, n: int, cond: Tensor | None = None, *, generator: _random.Generators = None) -> Tensor:
        """Return n samples (n, *shape), from the components `cond` (n,) if given."""
        return self.draw(n, cond, generator=generator)[0]

    def draw(self, n: int, cond: Tensor | None = None, *, generator: _random.Generators = None) -> tuple[Tensor, Tensor]:
        """Return n samples (n, *shape) and the component (n,) of each."""
        shares = self._log_weights(n, cond).exp().cumsum(1)
        place = _random.uniform((n, 1), generator, shares.device, shares.dtype) * shares[:, -1:]
        component = (place >= shares).sum(1).clamp(max=shares.shape[1] - 1)
        noise = _random.normal((n, *self.shape), generator, self.means.device, self.means.dtype)
        return self.means[component] + per_row(self.stds[component], noise) * noise, component

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return log p(x) (n,) in nats, or log p(x | component) if `cond` is given."""
        ones = self._row(1, x)
        return torch.logsumexp(self._joint(x, ones, 0 * ones, cond)[0], dim=1)

    def score(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the gradient of log p at x (n, *shape)."""
        ones = self._row(1, x)
        return self._posterior(x, ones, 0 * ones, cond)[2]

    def marginal(self, alpha: float | Tensor, sigma: float | Tensor) -> "GaussianMixture":
        """Return the mixture of alpha x_0 + sigma eps; alpha and sigma must not both be 0."""
        return GaussianMixture(alpha * self.means, (alpha**2 * self.stds**2 + sigma**2) ** 0.5, self.weights)

    def posterior_mean(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor, cond: Tensor | None = None) -> Tensor:
        """Return E[x_0 | alpha x_0 + sigma eps = x] (n, *shape) for alpha and sigma (n,); they must not both be 0 in a row."""
        return self._posterior(x, self._row(alpha, x), self._row(sigma, x), cond)[0]

    def posterior_noise(self, x: Tensor, alpha: float | Tensor, sigma: float | Tensor, cond: Tensor | None = None) -> Tensor:
        """Return E[eps | alpha x_0 + sigma eps = x] (n, *shape) for alpha and sigma (n,); they must not both be 0 in a row."""
        return self._posterior(x, self._row(alpha, x), self._row(sigma, x), cond)[1]

    def net(self, path: Path, prediction: Kind = "velocity") -> "ExactNet":
        """Return the optimal network `net(x, t, cond=None)` for training along `path`.

        Args:
            path: has alpha(t), sigma(t), alpha_dot(t) and sigma_dot(t).
            prediction: "velocity" E[alpha' x_0 + sigma' eps | x_t], "noise" E[eps | x_t], "data" E[x_0 | x_t], "score", or
                "v" E[alpha eps - sigma x_0 | x_t] on a variance preserving path.
        """
        return ExactNet(self, path, prediction)

    def _row(self, value: float | Tensor, x: Tensor) -> Tensor:
        row = torch.as_tensor(value, dtype=self.means.dtype, device=self.means.device)
        return row.expand(len(x)) if row.ndim == 0 else row

    def _log_weights(self, n: int, cond: Tensor | None) -> Tensor:
        """Log weights (n, K): those of the mixture, or one-hot for the component of each row."""
        if cond is None:
            return self.weights.log().expand(n, -1)
        count = len(self.weights)
        if cond.numel() and not 0 <= int(cond.min()) <= int(cond.max()) <= count:
            raise ConditionError(
                f"cond is {int(cond.min())} to {int(cond.max())}, but a component must be 0 to {count - 1}, or {count} for all."
            )
        return torch.cat((torch.eye(count).to(self.weights).log(), self.weights.log()[None]))[cond]

    def _joint(self, x: Tensor, alpha: Tensor, sigma: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        """Log w_k N(x; alpha m_k, v_k I) (n, K) and v (n, K)."""
        means, stds = self.means, self.stds
        if tuple(x.shape[1:]) != tuple(means.shape[1:]):
            raise ShapeError(f"x has shape {tuple(x.shape)}, but the events of this mixture need (n, {', '.join(map(str, self.shape))}).")
        if x.dtype != means.dtype:
            raise DtypeError(f"x has dtype {x.dtype}, but this mixture has {means.dtype}; convert it by mixture.to(x.dtype).")
        variance = torch.addcmul(sigma.square()[:, None], alpha.square()[:, None], stds.square())
        residual = torch.addcmul(x.flatten(1)[:, None], alpha[:, None, None], means.flatten(1), value=-1)
        exponent = torch.linalg.vecdot(residual, residual) / variance + residual.shape[2] * (2 * math.pi * variance).log()
        return torch.add(self._log_weights(len(x), cond), exponent, alpha=-0.5), variance

    def _posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """E[x_0 | x], E[eps | x] and the score of x_t, each (n, *shape), from the sums over k of r_k / v_k times m_k, s_k^2 and 1."""
        joint, variance = self._joint(x, alpha, sigma, cond)
        rows, alpha, sigma = x.flatten(1), alpha[:, None], sigma[:, None]
        summed = torch.cat((self.means.flatten(1), self.stds.square()[:, None], torch.ones_like(self.stds)[:, None]), dim=1)
        mean, spread, whole = ((joint.softmax(dim=1) / variance) @ summed).split((rows.shape[1], 1, 1), dim=1)
        score = alpha * mean - whole * rows
        data = torch.addcmul(sigma.square() * mean, alpha * spread, rows)
        return data.view_as(x), (-sigma * score).view_as(x), score.view_as(x)


class ExactNet(nn.Module):
    """The exact network of a mixture along a path; it holds a copy of the mixture."""

    def __init__(self, mixture: GaussianMixture, path: Path, prediction: Kind) -> None:
        super().__init__()
        kinds = getattr(path, "kinds", KINDS)
        if prediction not in kinds:
            raise UserError(unknown("prediction", prediction, kinds))
        self.mixture, self.path, self.prediction = copy.deepcopy(mixture), path, prediction

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Return the prediction (n, *shape) for x (n, *shape) and t (n,)."""
        alpha, sigma = self.mixture._row(self.path.alpha(t), x), self.mixture._row(self.path.sigma(t), x)
        data, noise, score = self.mixture._posterior(x, alpha, sigma, cond)
        if self.prediction == "velocity":
            alpha_dot, sigma_dot = self.mixture._row(self.path.alpha_dot(t), x), self.mixture._row(self.path.sigma_dot(t), x)
            return per_row(alpha_dot, x) * data + per_row(sigma_dot, x) * noise
        if self.prediction == "v":
            return per_row(alpha, x) * noise - per_row(sigma, x) * data
        return {"noise": noise, "data": data, "score": score}[self.prediction]


@export("data.mixture", example=lambda: mixture(n=16), loader=True)
def mixture(split: str = "train", *, n: int | None = None, seed: int = 0) -> Dataset:
    """Three unequal Gaussians in the plane, each a class, whose density is known in closed form (`three_gaussians`).

    Args:
        split: "train", "validation" or "test", independent draws.
        n: number of examples, by default 10,000 for train and 2,000 for the others.
        seed: seed of the draws.

    Returns:
        The set with x (n, 2) and labels (n,): which component.

    Raises:
        UserError: `split` is not one of the three, or n < 1.

    Example:
        >>> from pushforward import data
        >>> data.mixture(n=100)
        Dataset('mixture', 100 examples, shape (2,), 3 classes)
    """
    truth = three_gaussians()
    return drawn("mixture", lambda count, generator: truth.draw(count, generator=generator), split, n, seed, classes=3)


@export("data.three_gaussians", example=lambda: three_gaussians())
def three_gaussians(dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """Return the mixture that the data set `mixture` draws from: weights 1/2, 3/10, 1/5 and standard deviations 0.5, 0.3, 0.8.

    Args:
        dtype: of the mixture; the laws use float64.

    Returns:
        The `GaussianMixture` with means (-1.5, -0.5), (1.0, 1.5) and (1.5, -1.5).

    Example:
        >>> from pushforward import data
        >>> data.three_gaussians().weights
        tensor([0.5000, 0.3000, 0.2000])
    """
    means = torch.tensor([[-1.5, -0.5], [1.0, 1.5], [1.5, -1.5]], dtype=dtype)
    return GaussianMixture(means, torch.tensor([0.5, 0.3, 0.8], dtype=dtype), torch.tensor([0.5, 0.3, 0.2], dtype=dtype))
