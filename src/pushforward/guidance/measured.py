"""Guidance by a measurement: samples of the posterior p(x | y) from a model of p(x), without training."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward.dispatch import ability
from pushforward.errors import DtypeError, ShapeError, UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.around import Around, as_guidance
from pushforward.guidance.guidance import Guidance, Guided, cut, plain_of
from pushforward.guidance.observed import Observed
from pushforward.measurements.measurement import Measurement
from pushforward.paths.prediction import Prediction
from pushforward.samplers.denoiser import Denoiser
from pushforward.types import has_log_prob


@dataclass(frozen=True)
class Units:
    """How a model's data become events as the user has them: a differentiable map, and the shape of one event."""

    to_user: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    like: Tensor  # of the dtype and device of events

    def zeros(self) -> Tensor:
        """Return one event of zeros (1, *shape)."""
        return self.like.new_zeros((1, *self.shape))


@dataclass(frozen=True, eq=False, repr=False)
class Measured(Around):
    """What guidance by a measurement shares: the measurement, its result y, and the model's units, in which guidance works.

    A method implements `correction`, or derives from `Loop` if it takes steps of its own. `reach` is the largest share of noise,
    sigma / (alpha + sigma), at which the network is differentiated.
    """

    measurement: Measurement
    y: Tensor
    guidance: Guidance | float | None = None
    reach: float = field(default=0.75, kw_only=True)
    units: Units | None = field(default=None, kw_only=True)  # set by `on_model`

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.measurement, Measurement):
            raise UserError(
                f"measurement is {shown(self.measurement)}, but it is one of pf.measurements, such as pf.measurements.Mask(mask)."
            )
        if not isinstance(self.y, Tensor) or not self.y.is_floating_point():
            what = f"a tensor of {self.y.dtype}" if isinstance(self.y, Tensor) else shown(self.y)
            raise DtypeError(f"y is {what}, but it is a tensor of floating point: what was measured, with NaN where nothing was.")
        if not 0 < self.reach < 1:
            raise UserError(f"reach is {self.reach}, but it is a share of noise above 0 and below 1; 0.75 is usual.")
        if bool(self.y.isinf().any()):
            raise UserError("y has infinite values, but what was measured is finite, or NaN where nothing was.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.measurement).__name__})"  # without the tensors

    @property
    def bound(self) -> Units:
        """The model's units.

        Raises:
            UserError: no model is known yet.
        """
        if self.units is None:
            raise UserError(f"{type(self).__name__} reads y in a model's units, which are not known here; use on_model(model).")
        return self.units

    def correction(self, observed: Observed, seen: "Seen") -> Tensor:
        """Return what is added to the expected data (n, *shape), so that it is expected given y too."""
        raise NotImplementedError

    def __call__(self, denoiser: Denoiser) -> "Denoiser | Guided":
        """Return the guided denoiser."""
        return _Steered(self, self.inside(denoiser), self.y)

    def check_model(self, model: Any) -> None:
        super().check_model(model)
        name = type(self).__name__
        if not has_log_prob(model.base) or model.bridge:
            raise UserError(f"{name} needs a path whose only noise is Gaussian, but this model is from data to data or has a bridge.")
        inner = as_guidance(self.guidance)
        if inner is not None and not inner.has_density:
            raise UserError(f"guidance is {inner} inside {name}, but there is one measurement; join the two into one function.")
        if model.one_step:
            raise UserError(f"{name} follows a path, but this model was distilled into one step; use the model that it was distilled from.")

    @property
    def has_density(self) -> bool:
        return False

    def on_model(self, model: Any, units: Any = None) -> Self:
        """Return the guidance for a model, whose units y is read in, after checking everything against each other."""
        bound = super().on_model(model, units)
        if self.units is not None:
            return bound
        units = model.units if units is None else units
        return replace(bound, y=self._checked(units), units=units)

    def _checked(self, units: Units) -> Tensor:
        """Return y with a leading dimension, 1 if it is the same for all samples."""
        if torch.is_inference_mode_enabled():
            raise UserError(
                f"{type(self).__name__} differentiates, which torch.inference_mode rules out; use torch.no_grad, as sample does."
            )
        event = units.zeros()
        measured = self.measurement.shape_of(event)
        with torch.enable_grad():
            value = self.measurement(event.requires_grad_())
        name = type(self.measurement).__name__
        if not isinstance(value, Tensor) or not value.requires_grad or len(value) != 1:
            raise UserError(f"{name} is no differentiable function of each event by itself; it maps (n, *shape) to (n, *measured).")
        if self.measurement.linear and bool((value != 0).any()):
            raise UserError(f"{name} measures other values than 0 of an event of zeros, so that it is not linear; use Nonlinear.")
        self.measurement.deviation(value)
        given = tuple(self.y.shape)
        if given == measured:
            return self.y[None]
        if given[1:] != measured:
            raise ShapeError(
                f"y has shape {given}, but {name} of an event of shape {tuple(event.shape[1:])} measures {measured}; give that for all "
                f"samples, or {('n', *measured)} for each.".replace("'", "")
            )
        return self.y

    def rows(self, rows: slice, n: int) -> Self:
        made = super().rows(rows, n)
        return made if self.units is None or len(self.y) == 1 else replace(made, y=cut(self.y, rows, n, "y"))


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


class _Steered(Guided):
    """A (guided) denoiser whose expected data are corrected by a measurement."""

    def __init__(self, guidance: Measured, inner: Denoiser | Guided, y: Tensor) -> None:
        self.guidance, self.inner, self.y, self.path = guidance, inner, y, inner.path

    @property
    def args(self) -> tuple[Any, ...]:
        return (*self.inner.args, None if len(self.y) == 1 else self.y)

    def bind(self, *args: Any) -> "_Steered":
        return _Steered(self.guidance, self.inner.bind(*args[:-1]), self.y if args[-1] is None else args[-1])

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
