"""Guidance by extrapolation: a prediction is moved away from another, worse one."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from pushforward.errors import ConditionError, UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.guidance import Guidance, Guided, cut
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.samplers.denoiser import Denoiser


class Extrapolation(Guidance):
    """Guidance away from another prediction; to add one, implement `other`, and `combined` if it is not linear.

    v = v_other + scale (v_cond - v_other)
    """

    scale: float
    interval: tuple[float, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_interval(self.interval)

    @property
    def changes_nothing(self) -> bool:
        """Whether the guided prediction is the denoiser's own, so that the other one needs no evaluation."""
        return self.scale == 1

    def other(self, denoiser: Denoiser) -> Denoiser:
        """Return the denoiser of the other prediction."""
        raise NotImplementedError

    def combined(self, plain: Tensor, other: Tensor, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """Return the guided velocity for both velocities (n, *shape) at x (n, *shape) and t (n,)."""
        return torch.lerp(other, plain, self.scale)

    def __call__(self, denoiser: Denoiser) -> Denoiser | Guided:
        """Return the guided denoiser."""
        return denoiser if self.changes_nothing else _Extrapolated(self, denoiser, self.other(denoiser))


class FromNegative(Extrapolation):
    """Extrapolation away from the prediction for another condition of the same network, by default for none."""

    negative: Any

    @property
    def needs_unconditional(self) -> bool:
        return self.negative is None and not self.changes_nothing

    def other(self, denoiser: Denoiser) -> Denoiser:
        return denoiser.bind(self.negative)

    def __call__(self, denoiser: Denoiser) -> Denoiser | Guided:
        if denoiser.cond is None:
            raise ConditionError(f"guidance {self.scale:g} needs a condition to follow; give cond, or leave guidance out.")
        return super().__call__(denoiser)

    def check_model(self, model: Any) -> None:
        """Raise an error unless a negative condition is of the kind that a model was built for."""
        super().check_model(model)
        if isinstance(self.negative, Tensor) and self.negative.ndim and getattr(model, "conditioning", None):
            try:
                model._checked_cond(self.negative, len(self.negative))
            except ConditionError as error:
                raise ConditionError(re.sub(r"\bcond\b", "negative", str(error))) from None

    def rows(self, rows: slice, n: int) -> Self:
        return replace(self, negative=cut(self.negative, rows, n, "negative"))  # type: ignore[type-var]

    def prepared(self, prepare: Callable[[Any], Any]) -> Self:
        return replace(self, negative=prepare(self.negative))  # type: ignore[type-var]


class _Extrapolated(Guided):
    """A denoiser guided away from another one: an evaluation of each per call, and of the first alone outside the interval."""

    def __init__(self, guidance: Extrapolation, denoiser: Denoiser, other: Denoiser) -> None:
        self.guidance, self.denoiser, self.other, self.path = guidance, denoiser, other, denoiser.path

    @property
    def args(self) -> tuple[Any, ...]:
        return (self.denoiser.cond, self.other.cond)

    def bind(self, *args: Any) -> "_Extrapolated":
        return _Extrapolated(self.guidance, self.denoiser.bind(args[0]), self.other.bind(args[1]))

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        return self.denoiser(x, t).velocity

    def with_variance(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the guided prediction, with the variance of the conditional, unguided prediction."""
        prediction = self.denoiser.with_variance(x, t)
        guided = self.around(prediction.velocity, x, t)
        return Prediction(guided.path, guided.kind, guided.value, x, t, prediction.share)

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        guide = within(t, self.guidance.interval)
        if guide is not None and not bool(guide.any()):
            return Prediction(self.path, "velocity", plain, x, t)
        # In the dtype of x or wider, whatever dtype autocast lets the network return.
        wide = torch.promote_types(x.dtype, plain.dtype)
        plain = plain.to(wide)
        guided = self.guidance.combined(plain, self.other(x, t).velocity.to(wide), self.path, x, t)
        if guide is not None:
            guided = torch.where(per_row(guide, guided).bool(), guided, plain)
        return Prediction(self.path, "velocity", guided, x, t)


def checked_interval(interval: tuple[float, float]) -> None:
    """Raise an error unless this is an interval of times."""
    if not 0 <= interval[0] < interval[1] <= 1:
        raise UserError(f"interval is {interval}, but it must be (low, high) with 0 <= low < high <= 1.")


def within(t: Tensor, interval: tuple[float, float]) -> Tensor | None:
    """Return which of the times (n,) lie in an interval, or None for all of them."""
    if interval == (0.0, 1.0):
        return None
    return (t >= interval[0]) & (t <= interval[1])
