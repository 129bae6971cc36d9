"""What a path is: four functions of time, and what follows from them."""

from typing import ClassVar

import torch
from torch import Tensor

from pushforward._checks import CheckedNumbers
from pushforward.errors import UserError, missing
from pushforward.functional.bisection import bisected
from pushforward.functional.prediction import KINDS, Kind, per_row, prediction_coefficients

MARGIN = 1e-3  # distance that a model keeps from a time at which its prediction does not determine the velocity


class Path(CheckedNumbers):
    """A schedule alpha(t), sigma(t) with its derivatives; to add one, define these four, `interval`, and `time` if it has a formula.

    Times are tensors (n,), values likewise. `interval = (t_min, t_max)` lies inside [0, 1]. `log` states that the velocity varies on the
    scale of t itself, as if sigma is a power of t: adaptive solvers then take their steps in log(t). `variance_preserving` states that
    alpha² + sigma² = 1, which the prediction "v" requires.
    """

    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)
    log: ClassVar[bool] = False
    variance_preserving: ClassVar[bool] = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What a network may predict on this path: "velocity", "noise", "data" and "score", and "v" if it is variance preserving."""
        return (*KINDS, "v") if self.variance_preserving else KINDS

    @property
    def knots(self) -> int | None:
        """The number T of knots of a discrete path, at t = 1 / T, 2 / T, ..., 1; None for a path in continuous time."""
        return None

    def alpha(self, t: Tensor) -> Tensor:
        """Return alpha_t, the factor of the data."""
        raise missing(self, "alpha", "alpha_t, the factor of the data")

    def sigma(self, t: Tensor) -> Tensor:
        """Return sigma_t, the factor of the noise."""
        raise missing(self, "sigma", "sigma_t, the factor of the noise")

    def alpha_dot(self, t: Tensor) -> Tensor:
        """Return d alpha / dt."""
        raise missing(self, "alpha_dot", "d alpha / dt")

    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return d sigma / dt."""
        raise missing(self, "sigma_dot", "d sigma / dt")

    def time(self, log_snr: Tensor) -> Tensor:
        """Return the t at which log(alpha_t / sigma_t) has this value: the inverse of `log_snr`, found by bisection unless overridden."""
        low, high = (torch.full_like(log_snr, end) for end in self.interval)
        return bisected(lambda t: self.log_snr(t) > log_snr, low, high)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return lambda_t = log(alpha_t / sigma_t), half the logarithm of the signal-to-noise ratio."""
        return self.alpha(t).log() - self.sigma(t).log()

    def mix(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = alpha_t data + sigma_t noise, of data's shape (n, *shape)."""
        return torch.addcmul(data * per_row(self.alpha(t), data), noise, per_row(self.sigma(t), data))

    def target(self, kind: Kind, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the training target for this kind of prediction of the pair (data, noise) at t."""
        if kind == "velocity":
            return torch.addcmul(data * per_row(self.alpha_dot(t), data), noise, per_row(self.sigma_dot(t), data))
        if kind == "score":
            return -noise / per_row(self.sigma(t), noise)
        if kind == "v":
            self._check(kind)
            return torch.addcmul(noise * per_row(self.alpha(t), noise), data, per_row(-self.sigma(t), noise))
        return data if kind == "data" else noise

    def coefficients(self, source: Kind, target: Kind, t: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return (a, b), each (n,) or a float, with target = a x_t + b source (see `functional.prediction_coefficients`)."""
        for kind in (source, target):
            self._check(kind)
        if source == target:
            return 0.0, 1.0
        return prediction_coefficients(source, target, self.alpha(t), self.sigma(t), self.alpha_dot(t), self.sigma_dot(t))

    def interval_for(self, kind: Kind) -> tuple[float, float]:
        """Return the interval on which this kind of prediction determines the velocity.

        Where alpha = 0, noise and score do not determine the data; where sigma = 0, data does not determine the noise and the score is
        not defined. The interval stops 0.001 short of such a time.
        """
        self._check(kind)
        low, high = self.interval
        ends = torch.tensor([low, high], dtype=torch.float64, device="cpu")
        if kind in ("data", "score") and self.sigma(ends)[0] < 1e-9:
            low += MARGIN
        if kind in ("noise", "score") and self.alpha(ends)[1] < 1e-9:
            high -= MARGIN
        return low, high

    def _check(self, kind: Kind) -> None:
        """Raise an error for an unknown kind of prediction, and for "v" on a path that is not variance preserving."""
        if kind == "v" and not self.variance_preserving:
            raise UserError(
                f"prediction is 'v', but {self} is not variance preserving (alpha² + sigma² = 1); use 'velocity', or the path Cosine()."
            )
        if kind not in (*KINDS, "v"):
            raise UserError(f"prediction is {kind!r}, but it is one of {', '.join(self.kinds)}.")
