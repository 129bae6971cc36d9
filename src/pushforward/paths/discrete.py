"""DDPM's discrete schedules as paths: a list of betas, with a smooth log-SNR between its knots."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy
import torch
from torch import Tensor

from pushforward._memory import check_room
from pushforward.errors import UserError
from pushforward.functional.prediction import Kind
from pushforward.paths.path import Path
from pushforward.registry import export, unknown

Schedule = Literal["linear", "scaled_linear", "cosine", "sigmoid"]
ENDED: tuple[Schedule, ...] = ("linear", "scaled_linear", "sigmoid")  # with a first and a last beta
BYTES = 250  # memory for each step while the spline is fitted
SCHEDULES: tuple[Schedule, ...] = ("linear", "scaled_linear", "cosine", "sigmoid")


@export("paths.Discrete", example=lambda: Discrete())
@dataclass(frozen=True)
class Discrete(Path):
    """A variance preserving path through T knots: alpha² at t = (k + 1) / T is the product of 1 - beta up to beta_k.

        alpha² = sigmoid(2 lambda), sigma² = sigmoid(-2 lambda), lambda(t) a falling cubic spline through the knots' log-SNR

    The spline has continuous curvature wherever the betas are smooth, so that solvers of high order keep their order, and is flattened
    where it would not be monotone. The interval is from the first knot, t = 1 / T, to 1. Below it there is only t = 0, the data: alpha = 1
    and sigma = 0.

    These schedules keep some of the data at t = 1, where sampling starts from pure noise. With `zero_terminal_snr` alpha is shifted and
    scaled, so that it is 0 at the last knot and unchanged at the first. lambda is then -infinity at t = 1, and the spline is alpha's:

        alpha_k <- (alpha_k - alpha_T) alpha_1 / (alpha_1 - alpha_T),    k = 1 ... T

    At t = 1 noise and score no longer determine the data, so that a network predicts "v", "data" or "velocity".

    Args:
        betas: "linear" (0.0001 to 0.02 for T = 1000, for others in proportion), "scaled_linear" (as linear, but their roots are equally
            spaced), "cosine", "sigmoid" (as linear, by a logistic curve from -6 to 6), or the numbers themselves, each between 0 and 1.
        steps: T; None is 1,000, or the number of betas.
        zero_terminal_snr: whether alpha is 0 at t = 1; diffusers' `rescale_betas_zero_snr`.
        first: the first beta of "linear", "scaled_linear" and "sigmoid"; None is 0.1 / T.
        last: their last beta; None is 20 / T.

    Raises:
        UserError: an unknown schedule, a first or last beta of another schedule, a beta that is not between 0 and 1, fewer than 3 betas, or
            a number of betas other than steps; the prediction "noise" or "score" with zero_terminal_snr.
        OutOfMemoryError: more steps than the memory holds.

    Example:
        >>> Discrete().interval
        (0.001, 1.0)
        >>> Discrete().alpha(torch.tensor([1.0]))
        tensor([0.0064])

    Source: Ho et al., 2006.11239, section 4 (linear); the code of Rombach et al., 2112.10752 (scaled_linear); Nichol and Dhariwal,
    2102.09672, eq. 17 (cosine); Xu et al., 2203.02923 (sigmoid); Lin et al., Common diffusion noise schedules and sample steps are flawed,
    2305.08891, algorithm 1 (zero terminal SNR).
    """

    betas: Schedule | tuple[float, ...] = "linear"
    steps: int | None = None
    zero_terminal_snr: bool = False
    first: float | None = None
    last: float | None = None

    variance_preserving: ClassVar[bool] = True
    _curve: ClassVar["_LogSNR | _Alpha"]  # determined by the betas and not a setting, like interval

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.betas, str) and self.betas not in SCHEDULES:
            raise UserError(f"betas: {unknown('schedule', self.betas, SCHEDULES)}")
        if not (self.first is None and self.last is None) and self.betas not in ENDED:
            raise UserError(f"first or last is given, but they are for the betas {', '.join(ENDED)}; leave them out.")
        count = (1000 if isinstance(self.betas, str) else len(self.betas)) if self.steps is None else self.steps
        if not isinstance(self.betas, str) and len(self.betas) != count:
            raise UserError(f"steps is {count}, but there are {len(self.betas)} betas; leave steps out.")
        if count < 3:
            raise UserError(f"steps is {count}, but a discrete path needs at least 3; 1000 is usual.")
        check_room(f"a discrete path of {count} steps", BYTES * min(count, 1 << 62), "give fewer; 1000 is usual")
        betas = _betas(self.betas, count, self.first, self.last) if isinstance(self.betas, str) else numpy.array(self.betas)
        if not ((betas > 0) & (betas < 1)).all():
            wrong = int(numpy.argmin((betas > 0) & (betas < 1)))
            raise UserError(
                f"beta {wrong} of {count} is {betas[wrong]:g}, but each must be between 0 and 1; use more steps or other betas."
            )
        log_kept = numpy.log1p(-betas).cumsum()  # log alpha²
        object.__setattr__(self, "interval", (1 / count, 1.0))
        object.__setattr__(self, "_curve", (_Alpha if self.zero_terminal_snr else _LogSNR)(log_kept))

    @property
    def knots(self) -> int:
        """T, the number of betas."""
        return self._curve.knots

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("velocity", "data", "v") if self.zero_terminal_snr else super().kinds

    def interval_for(self, kind: Kind) -> tuple[float, float]:
        low, high = super().interval_for(kind)
        if kind not in self.kinds:
            raise UserError(
                f"prediction is {kind!r}, but at t = 1 of a path of zero terminal SNR it does not determine the data; use 'v' or 'data'."
            )
        return low, high

    def log_snr(self, t: Tensor) -> Tensor:
        return self._curve.log_snr(t)

    def alpha(self, t: Tensor) -> Tensor:
        return self._curve.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._curve.sigma(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self._curve.alpha_dot(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._curve.sigma_dot(t)


class _Spline:
    """Cubics between knots: rows of coefficients, those of a place between two knots found by its time."""

    def __init__(self, pieces: Tensor) -> None:
        self.pieces, self.knots = pieces, len(pieces) + 1

    def piece(self, t: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the position between two knots, from 0 to 1, and the coefficients there."""
        place = t * self.knots - 1
        index = place.detach().long().clamp(0, self.knots - 2)
        return place - index, self.pieces.to(t.device, t.dtype)[index].unbind(-1)


class _LogSNR(_Spline):
    """The schedule whose log-SNR is a spline through that of log alpha² at the knots (T,)."""

    def __init__(self, log_kept: numpy.ndarray) -> None:
        super().__init__(torch.from_numpy(_monotone_cubic(0.5 * (log_kept - numpy.log(-numpy.expm1(log_kept))))))

    def log_snr(self, t: Tensor) -> Tensor:
        return self._log_snr(t, *self.piece(t))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(2 * self.log_snr(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-2 * self.log_snr(t)).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:  # alpha sigma² dlambda/dt
        log_snr, slope = self._with_slope(t)
        return torch.sigmoid(2 * log_snr).sqrt() * torch.sigmoid(-2 * log_snr) * slope

    def sigma_dot(self, t: Tensor) -> Tensor:  # -sigma alpha² dlambda/dt
        log_snr, slope = self._with_slope(t)
        return -torch.sigmoid(-2 * log_snr).sqrt() * torch.sigmoid(2 * log_snr) * slope

    def _log_snr(self, t: Tensor, u: Tensor, powers: tuple[Tensor, ...]) -> Tensor:
        a, b, c, d = powers
        return torch.where(t == 0, math.inf, torch.addcmul(a, u, torch.addcmul(b, u, torch.addcmul(c, u, d))))

    def _with_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-SNR and its derivative by t."""
        u, powers = self.piece(t)
        _, b, c, d = powers
        return self._log_snr(t, u, powers), ((3 * d * u + 2 * c) * u + b) * self.knots


class _Alpha(_Spline):
    """The schedule whose alpha is a spline through the knots' alpha, shifted and scaled to be 0 at the last one.

    The rest 1 - alpha, which sigma² = rest (1 + alpha) needs, has coefficients of its own: subtracted, it would lose digits near the data.
    """

    def __init__(self, log_kept: numpy.ndarray) -> None:
        rest = -numpy.expm1(0.5 * log_kept)
        rest = rest[0] + (rest - rest[0]) * ((1 - rest[0]) / (rest[-1] - rest[0]))
        rest[-1] = 1.0
        _, b, c, d = _monotone_cubic(-rest).T
        # Powers of the distance to the right knot, so that alpha is exactly 0 at t = 1.
        super().__init__(torch.from_numpy(numpy.stack((1 - rest[1:], rest[1:], -(b + 2 * c + 3 * d), c + 3 * d, -d), axis=1)))

    def log_snr(self, t: Tensor) -> Tensor:
        alpha, rest = self._both(t)
        return alpha.log() - (rest * (1 + alpha)).log() / 2

    def alpha(self, t: Tensor) -> Tensor:
        return self._both(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        alpha, rest = self._both(t)
        return (rest * (1 + alpha)).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        u, (_, _, b, c, d) = self.piece(t)
        s = 1 - u
        return -((3 * d * s + 2 * c) * s + b) * self.knots

    def sigma_dot(self, t: Tensor) -> Tensor:  # of sigma² = 1 - alpha²
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def _both(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and 1 - alpha."""
        u, (alpha, rest, b, c, d) = self.piece(t)
        s = 1 - u
        more = s * torch.addcmul(b, s, torch.addcmul(c, s, d))
        return torch.where(t == 0, 1.0, alpha + more), torch.where(t == 0, 0.0, rest - more)


def _betas(schedule: Schedule, steps: int, first: float | None = None, last: float | None = None) -> numpy.ndarray:
    if schedule == "cosine":
        kept = numpy.cos((numpy.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return numpy.minimum(1 - kept[1:] / kept[:-1], 0.999)
    first, last = 0.1 / steps if first is None else first, 20 / steps if last is None else last  # 0.0001 and 0.02 at T = 1000
    if schedule == "scaled_linear":
        return numpy.linspace(math.sqrt(max(0.0, first)), math.sqrt(max(0.0, last)), steps) ** 2
    share = numpy.linspace(0, 1, steps) if schedule == "linear" else 1 / (1 + numpy.exp(-numpy.linspace(-6, 6, steps)))
    return first + (last - first) * share


def _monotone_cubic(values: numpy.ndarray) -> numpy.ndarray:
    """Return coefficients (k - 1, 4) of cubics in [0, 1] through falling values: the spline's, its slopes cut where a piece would turn."""
    from scipy.interpolate import CubicSpline  # slow to import, and only needed once there is such a path

    falls = numpy.diff(values)
    slopes = CubicSpline(numpy.arange(len(values)), values)(numpy.arange(len(values)), 1)
    gentlest = numpy.maximum(numpy.append(falls, falls[-1]), numpy.append(falls[0], falls))  # of the two pieces that meet
    slopes = numpy.clip(slopes, 3 * gentlest, 0.01 * gentlest)  # up to three times the fall a cubic is monotone (Fritsch and Carlson 1980)
    start, end = slopes[:-1], slopes[1:]
    return numpy.stack((values[:-1], start, 3 * falls - 2 * start - end, start + end - 2 * falls), axis=1)
