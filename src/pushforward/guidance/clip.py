"""Clipping and dynamic thresholding of the data prediction."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pushforward.dispatch import ability
from pushforward.errors import UserError
from pushforward.functional.clipping import clipped
from pushforward.guidance.around import Around
from pushforward.guidance.guidance import Guidance, Guided, around_inner, plain_of
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser


@export("guidance.Clip", example=lambda: Clip(-1.0, 1.0))
@dataclass(frozen=True)
class Clip(Around):
    """Keep the data prediction within the range of the data, after any other guidance; the noise follows from it and x.

        data -> min(max(data, low), high)

    With a threshold, for data from -1 to 1 and s the quantile of |data| over the event, but at least 1:

        data -> min(max(data, -s), s) / s

    Other ranges are mapped to [-1, 1] and back. Large guidance scales predict data far outside their range; a threshold then keeps the
    contrasts that clipping would saturate. Where sigma is 0, at the data itself, nothing is changed.

    Args:
        low: least value of the data, in the model's units (of `preprocess`).
        high: largest value.
        threshold: the quantile, such as 0.995, or None to clip.
        guidance: what is clipped: another guidance, the scale of classifier-free guidance, or None for the model's prediction.

    Raises:
        UserError: low is not below high, or the quantile is not above 0 and at most 1.

    Example:
        >>> from pushforward.paths import Linear
        >>> far = Denoiser(lambda x, t, cond: x + 3, Linear(), "data")
        >>> Clip(-1.0, 1.0)(far)(torch.zeros(1, 2), torch.tensor([0.5])).data
        tensor([[1., 1.]])

    Source: Saharia et al. (Imagen), 2205.11487, section 2.3 (static and dynamic thresholding); as diffusers' `clip_sample` (of DDIM: with
    `use_clipped_model_output`) and `thresholding`, whose limit `sample_max_value` there is none of.
    """

    low: float = -1.0
    high: float = 1.0
    threshold: float | None = None
    guidance: Guidance | float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise UserError(f"low is {self.low} and high {self.high}, but a range has low below high; -1 and 1 are usual for images.")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold}, but it is a quantile above 0 and at most 1, such as 0.995; None clips.")

    def __call__(self, denoiser: Denoiser) -> "_Clipped":
        """Return the guided denoiser."""
        return _Clipped(self, self.inside(denoiser))

    def clipped(self, data: Tensor) -> Tensor:
        """Return data (n, *shape) within the range."""
        return clipped(data, self.low, self.high, self.threshold)


class _Clipped(Guided):
    """A (guided) denoiser whose data prediction is clipped."""

    def __init__(self, clip: Clip, inner: Denoiser | Guided) -> None:
        self.clip, self.inner, self.path = clip, inner, inner.path

    @property
    def args(self) -> tuple[Any, ...]:
        return self.inner.args

    def bind(self, *args: Any) -> "_Clipped":
        return _Clipped(self.clip, self.inner.bind(*args))

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        return self._clipped(self.inner(x, t))

    def with_variance(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the clipped prediction, with the variance of the unclipped one."""
        return self._clipped((ability(self.inner, "with_variance") or self.inner)(x, t))

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        return plain_of(self.inner, x, t)

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        return self._clipped(around_inner(self.inner, plain, x, t))

    def _clipped(self, prediction: Prediction) -> Prediction:
        """Return a prediction of the same kind with clipped data: what is in range keeps its value exactly."""
        return prediction.with_data(self.clip.clipped)
