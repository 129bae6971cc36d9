"""Guidance by a measurement that corrects the expected data at each evaluation, by derivatives of the network."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pushforward.dispatch import ability
from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.guidance import Guided, plain_of
from pushforward.guidance.measured import Measured
from pushforward.guidance.observed import Observed
from pushforward.paths.prediction import Prediction
from pushforward.samplers.denoiser import Denoiser


@dataclass(frozen=True, eq=False, repr=False)
class Corrected(Measured):
    """A method that implements `correction`; `reach` is the largest share of noise at which it differentiates the network."""

    reach: float = field(default=0.75, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.reach < 1:
            raise UserError(f"reach is {self.reach}, but it is a share of noise above 0 and below 1; 0.75 is usual.")

    def correction(self, observed: Observed, seen: "Seen") -> Tensor:
        """Return what is added to the expected data (n, *shape), so that it is expected given y too."""
        raise NotImplementedError

    def __call__(self, denoiser: Denoiser) -> "Denoiser | Guided":
        """Return the guided denoiser."""
        return _Correcting(self, self.inside(denoiser), self.y)


class Seen:
    """A prediction at (x, t) with its graph: the expected data, the path there, and products with the data's posterior covariance.

    C = Cov[x_0 | x_t] = sigma² / alpha  d E[x_0 | x_t] / d x_t
    """

    def __init__(self, prediction: Prediction, state: Tensor, differentiable: bool) -> None:
        self._state, self._differentiable = state, differentiable
        path, t = prediction.path, prediction.t
        with torch.enable_grad():
            self._data = prediction.data
        self.alpha, self.sigma = (per_row(one, state) for one in (path.alpha(t), path.sigma(t)))
        self.data = self._data if differentiable else self._data.detach()

    def covariance(self, w: Tensor) -> Tensor:
        """Return C w (n, *shape), by the transpose of the Jacobian, which is symmetric where the prediction is exact."""
        made = torch.autograd.grad(self._data, self._state, w, retain_graph=True, create_graph=self._differentiable)[0]
        return made * (self.sigma.square() / self.alpha).to(made)


class _Correcting(Guided):
    """A (guided) denoiser whose expected data are corrected by a measurement."""

    def __init__(self, guidance: Corrected, inner: Denoiser | Guided, y: Tensor) -> None:
        self.guidance, self.inner, self.y, self.path = guidance, inner, y, inner.path

    @property
    def args(self) -> tuple[Any, ...]:
        return (*self.inner.args, None if len(self.y) == 1 else self.y)

    def bind(self, *args: Any) -> "_Correcting":
        return _Correcting(self.guidance, self.inner.bind(*args[:-1]), self.y if args[-1] is None else args[-1])

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        return self._corrected(self.inner, x, t)

    def with_variance(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the corrected prediction, with the variance of the model's own."""
        return self._corrected(ability(self.inner, "with_variance") or self.inner, x, t)

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        return plain_of(self.inner, x, t)

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        return self(x, t)  # evaluated again, as the correction needs its derivatives

    def _corrected(self, inner: Callable[[Tensor, Tensor], Prediction], x: Tensor, t: Tensor) -> Prediction:
        differentiable = torch.is_grad_enabled()
        # Where alpha or sigma is 0, neither the covariance nor the prediction of another kind is determined.
        low, high = self.path.interval_for("score")
        t = t.clamp(low, high)
        # At more noise, the covariance is that of the state scaled to less: errors of a network's Jacobian count sigma² / alpha times.
        late = torch.minimum(t, self._last(t))
        apart = bool((t > late).any())
        with torch.enable_grad():
            given = x if differentiable and x.requires_grad else x.detach().requires_grad_()
            ratio = (self.path.sigma(late) / self.path.sigma(t)).to(x.dtype)
            state = given * per_row(ratio, x) if apart else given
            prediction = inner(state, late)
        seen = Seen(prediction, state, differentiable)
        if apart:
            with contextlib.nullcontext() if differentiable else torch.no_grad():
                prediction = inner(x, t)
        data = seen.data if not apart else prediction.data
        observed = Observed(self.guidance.measurement, self.guidance.bound.to_user, self.y, data)
        shift = self.guidance.correction(observed, seen)
        kind = prediction.kind
        value = prediction.value if differentiable else prediction.value.detach()
        share = prediction.share if differentiable or prediction.share is None else prediction.share.detach()
        b = torch.as_tensor(1.0 if kind == "data" else self.path.coefficients("data", kind, t)[1])
        value = value + per_row(b, value).to(shift) * shift
        return Prediction(self.path, kind, value, x, t, share)

    def _last(self, t: Tensor) -> Tensor:
        """Return the time at which the noise has the share `reach` of the state."""
        reach = torch.tensor(self.guidance.reach, dtype=torch.float64, device=t.device)
        return self.path.time(torch.log(1 / reach - 1)).to(t)
