"""Classifier-free guidance: extrapolation away from the unconditional prediction (or that of a negative condition)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from pushforward._checks import is_real, shown
from pushforward.errors import ConditionError, UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.guidance import Guidance, Guided, cut
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser


@export("guidance.CFG", example=lambda: CFG(3.0))
@dataclass(frozen=True)
class CFG(Guidance):
    """Classifier-free guidance of a conditional denoiser.

        v = v_negative + scale (v_cond - v_negative)

    Args:
        scale: 1 is no guidance (and costs no second evaluation); larger values follow the condition more strictly.
        negative: condition to move away from, with leading dimension n; None is the model's null condition.
        interval: times (low, high) at which to guide; outside them the plain conditional velocity is used.
        rescale: between 0 and 1, how far the standard deviation of the guided velocity over the event, which guidance increases, is
            rescaled to that of the conditional velocity. An event of one element has none, and is not rescaled.

    Raises:
        UserError: interval or rescale is out of range.
        ConditionError: the denoiser has no condition.

    Source: Ho and Salimans, 2207.12598; interval: Kynkäänniemi et al., 2404.07724; rescaling: Lin et al., 2305.08891, section 3.4.
    """

    scale: float
    negative: Any = None
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_interval(self.interval)
        if not 0 <= self.rescale <= 1:
            raise UserError(f"rescale is {self.rescale}, but it is a share between 0 and 1.")

    @property
    def needs_unconditional(self) -> bool:
        return self.negative is None and self.scale != 1

    def __call__(self, denoiser: Denoiser) -> Denoiser | Guided:
        """Return the guided denoiser."""
        if denoiser.cond is None:
            raise ConditionError(f"guidance {self.scale:g} needs a condition to follow; give cond, or leave guidance out.")
        return denoiser if self.scale == 1 else _Away(self, denoiser, self.negative)

    def rows(self, rows: slice, n: int) -> "CFG":
        return replace(self, negative=cut(self.negative, rows, n, "negative"))

    def prepared(self, prepare: Callable[[Any], Any]) -> "CFG":
        return replace(self, negative=prepare(self.negative))


class _Away(Guided):
    """A denoiser guided away from its prediction for another condition: two network evaluations per call, one outside the interval."""

    def __init__(self, guidance: CFG, denoiser: Denoiser, negative: Any) -> None:
        self.guidance, self.denoiser, self.negative, self.path = guidance, denoiser, negative, denoiser.path

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.denoiser.cond, self.negative)

    def bind(self, *args: Any) -> "_Away":
        return _Away(self.guidance, self.denoiser.bind(args[0]), args[1])

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        return self.denoiser(x, t).velocity

    def with_variance(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the guided prediction, with the variance of the conditional, unguided prediction."""
        prediction = self.denoiser.with_variance(x, t)
        guided = self.around(prediction.velocity, x, t)
        return Prediction(guided.path, guided.kind, guided.value, x, t, prediction.share)

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        guidance = self.guidance
        guide = within(t, guidance.interval)
        if guide is not None and not bool(guide.any()):
            return Prediction(self.path, "velocity", plain, x, t)
        # In the dtype of x or wider, whatever dtype autocast lets the network return.
        wide = torch.promote_types(x.dtype, plain.dtype)
        away, plain = self.denoiser.bind(self.negative)(x, t).velocity.to(wide), plain.to(wide)
        guided = torch.lerp(away, plain, guidance.scale)
        if guidance.rescale:
            guided = guided * per_row(1 + guidance.rescale * (_spread_ratio(plain, guided) - 1), guided)
        if guide is not None:
            guided = torch.where(per_row(guide, guided).bool(), guided, plain)
        return Prediction(self.path, "velocity", guided, x, t)


def _spread_ratio(wanted: Tensor, inflated: Tensor) -> Tensor:
    """Return the ratio (n,) of two standard deviations over the event; 1 where the second is 0 up to rounding."""
    rounding = 8 * torch.finfo(inflated.dtype).eps * inflated.flatten(1).abs().amax(1)
    wanted, inflated = (v.flatten(1).std(1, correction=0) for v in (wanted, inflated))
    some = inflated > rounding
    return torch.where(some, wanted / torch.where(some, inflated, 1), 1)


class Around(Guidance):
    """Guidance that contains another one in its field `guidance`: a guidance, a scale, or None."""

    guidance: Guidance | float | None

    @property
    def needs_unconditional(self) -> bool:
        inner = as_guidance(self.guidance)
        return inner is not None and inner.needs_unconditional

    def inside(self, denoiser: Denoiser) -> Denoiser | Guided:
        """Return the denoiser with the inner guidance applied."""
        inner = as_guidance(self.guidance)
        return denoiser if inner is None else inner(denoiser)

    def rows(self, rows: slice, n: int) -> Self:
        inner = as_guidance(self.guidance)
        return self if inner is None else replace(self, guidance=inner.rows(rows, n))  # type: ignore[type-var]

    def prepared(self, prepare: Callable[[Any], Any]) -> Self:
        inner = as_guidance(self.guidance)
        return self if inner is None else replace(self, guidance=inner.prepared(prepare))  # type: ignore[type-var]


def checked_interval(interval: tuple[float, float]) -> None:
    """Raise an error unless this is an interval of times."""
    if not 0 <= interval[0] < interval[1] <= 1:
        raise UserError(f"interval is {interval}, but it must be (low, high) with 0 <= low < high <= 1.")


def within(t: Tensor, interval: tuple[float, float]) -> Tensor | None:
    """Return which of the times (n,) lie in an interval, or None for all of them."""
    if interval == (0.0, 1.0):
        return None
    return (t >= interval[0]) & (t <= interval[1])


def as_guidance(guidance: Guidance | float | None) -> Guidance | None:
    """Return a guidance unchanged, and a number as the scale of classifier-free guidance."""
    if guidance is None or isinstance(guidance, Guidance):
        return guidance
    if not is_real(guidance):
        raise UserError(f"guidance is {shown(guidance)}, but it is a number such as 3.0, or a guidance such as pf.guidance.CFG(3.0).")
    return CFG(float(guidance))
