"""Gaussian paths x_t = alpha_t data + sigma_t noise, from data at t = 0 to noise at t = 1.

A path is a frozen object of four functions of time: its schedule and their derivatives. The conversions between the quantities that a
network may predict follow from these four and are in `functional.prediction`.

Where alpha, sigma or a derivative is singular, `interval` excludes that time; solvers and likelihoods stay inside the interval.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pushforward._checks import CheckedNumbers
from pushforward.errors import UserError, missing
from pushforward.functional.prediction import KINDS, Kind, combine, per_row, prediction_coefficients
from pushforward.registry import export, namespace

namespace(__name__)
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
        for _ in range(60):  # 60 halvings exhaust float64
            middle = (low + high) / 2
            before = self.log_snr(middle) > log_snr
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        return (low + high) / 2

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


class Prediction:
    """A network's prediction at (x, t), available as velocity, data, noise, score or v: the path converts it on access."""

    __slots__ = ("kind", "path", "share", "t", "value", "x")

    def __init__(self, path: Path, kind: Kind, value: Tensor, x: Tensor, t: Tensor, share: Tensor | None = None) -> None:
        self.path, self.kind, self.value, self.x, self.t = path, kind, value, x, t
        self.share = share  # interpolation of the reverse variance, if the network predicts one: see `nn.WithVariance`

    def to(self, kind: Kind) -> Tensor:
        """Return the prediction of this kind, (n, *shape)."""
        if kind == self.kind:
            return self.value
        a, b = self.path.coefficients(self.kind, kind, self.t)
        return combine(a, self.x, b, self.value)

    @property
    def velocity(self) -> Tensor:
        """dx/dt of the probability-flow ODE: alpha' data + sigma' noise."""
        return self.value if self.kind == "velocity" else self.to("velocity")

    @property
    def data(self) -> Tensor:
        """The expected data given x_t."""
        return self.to("data")

    @property
    def noise(self) -> Tensor:
        """The expected noise given x_t."""
        return self.to("noise")

    @property
    def score(self) -> Tensor:
        """The gradient of log p_t at x_t: -noise / sigma_t.

        Raises:
            UserError: sigma_t is 0, where the score is not defined.
        """
        if bool((self.path.sigma(self.t) == 0).any()):
            raise UserError(
                f"the score is not defined at t = {float(self.t.min()):g}, where sigma is 0; ask for it inside the path's interval."
            )
        return self.to("score")

    @property
    def v(self) -> Tensor:
        """alpha_t noise - sigma_t data.

        Raises:
            UserError: the path is not variance preserving.
        """
        return self.to("v")


@export("paths.Linear", example=lambda: Linear())
@dataclass(frozen=True)
class Linear(Path):
    """Straight lines: alpha = 1 - t, sigma = t, so that velocity = noise - data.

    Source: Liu, Gong and Liu, 2209.03003; Lipman et al., 2210.02747 (CondOT); Stable Diffusion 3, 2403.03206.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr)


@export("paths.Cosine", example=lambda: Cosine())
@dataclass(frozen=True)
class Cosine(Path):
    """A quarter of a circle: alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Source: Nichol and Dhariwal, 2102.09672 (without their offset); Albergo and Vanden-Eijnden, 2209.15571.
    """

    variance_preserving: ClassVar[bool] = True

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin((1 - t) * (math.pi / 2))  # exactly 0 at t = 1, unlike a rounded cosine

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr)) * (2 / math.pi)


@export("paths.VariancePreserving", example=lambda: VariancePreserving())
@dataclass(frozen=True)
class VariancePreserving(Path):
    """Diffusion with a linear rate beta: alpha = exp(-B / 2), sigma² = 1 - alpha², B(t) = beta_min t + (beta_max - beta_min) t² / 2.

    sigma' is infinite at t = 0, so the interval starts at 0.0001, where sigma is 0.003.

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.

    Source: Ho et al., 2006.11239; Song et al., 2011.13456, eq. 32 and 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    interval: ClassVar[tuple[float, float]] = (1e-4, 1.0)
    variance_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_min <= self.beta_max:
            raise UserError(f"beta_min is {self.beta_min} and beta_max {self.beta_max}, but 0 < beta_min <= beta_max; try 0.1 and 20.")

    def _integral(self, t: Tensor) -> Tensor:
        return (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t) * t

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta(t) * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return 0.5 * self._beta(t) * self.alpha(t) ** 2 / self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return self._time(torch.nn.functional.softplus(-2 * log_snr))  # -log alpha², as alpha² = sigmoid(2 lambda)

    def _time(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))


@export("paths.SubVariancePreserving", example=lambda: SubVariancePreserving())
@dataclass(frozen=True)
class SubVariancePreserving(VariancePreserving):
    """The same alpha with less noise: alpha = exp(-B / 2), sigma = 1 - alpha², with B as in `VariancePreserving`.

    Nothing is singular at t = 0, where sigma grows in proportion to t.

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1.

    Source: Song et al., 2011.13456, eq. 29 and appendix C.
    """

    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)
    variance_preserving: ClassVar[bool] = False

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._beta(t) * self.alpha(t) ** 2

    def time(self, log_snr: Tensor) -> Tensor:
        inverse = torch.exp(-log_snr)  # 1 / r, where r = alpha / (1 - alpha²), so that sigma = 2 / (1 + sqrt(1 + 4 r²))
        return self._time(-torch.log1p(-2 * inverse / (inverse + torch.sqrt(inverse**2 + 4))))


@export("paths.VarianceExploding", example=lambda: VarianceExploding())
@dataclass(frozen=True)
class VarianceExploding(Path):
    """Data under growing noise: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t.

    Args:
        sigma_min: noise at t = 0, in units of the (preprocessed) data.
        sigma_max: noise at t = 1, large compared with the data.

    Source: Song et al., 2011.13456, eq. 30 and appendix C.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise UserError(
                f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}, but 0 < sigma_min < sigma_max; try 0.01 and 50."
            )

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._rate * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._rate * self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return (-log_snr - math.log(self.sigma_min)) / self._rate


@export("paths.Heat", example=lambda: Heat())
@dataclass(frozen=True)
class Heat(Path):
    """The heat equation: alpha = 1, sigma = sqrt(2 T t), so that the density p at heat time s = T t solves dp/ds = laplacian p.

    The velocity is then -T score, a direct derivation of diffusion's ODE (`models.heat_ode`). sigma' is infinite at t = 0, so the interval
    starts at 0.000001, where sigma is a thousandth of its value at the end.

    Args:
        duration: T, the heat time at t = 1: noise of variance 2 T, large compared with the (preprocessed) data.

    Source: Su, kexue.fm 9280 (in Chinese), where the ODE is derived from the Jacobian determinant and the heat equation.
    """

    duration: float = 50.0
    interval: ClassVar[tuple[float, float]] = (1e-6, 1.0)
    log: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.duration > 0:
            raise UserError(f"duration is {self.duration}, but heat needs a positive time; try 50, noise of deviation 10.")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(2 * self.duration * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.duration / self.sigma(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-2 * log_snr) / (2 * self.duration)
