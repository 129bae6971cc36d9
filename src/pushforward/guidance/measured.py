"""Guidance by a measurement: samples of the posterior p(x | y) from a model of p(x), without training."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward.errors import DtypeError, ShapeError, UserError
from pushforward.guidance.around import Around, as_guidance
from pushforward.guidance.guidance import Guidance, cut
from pushforward.measurements.measurement import Measurement


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

    A method derives from `Corrected`, or from `Loop` if it takes steps of its own.
    """

    measurement: Measurement
    y: Tensor
    guidance: Guidance | float | None = None
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
        if self.y.is_meta:
            raise UserError("y is on the device meta, which holds no values, but guidance by a measurement reads them.")
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

    def check_model(self, model: Any) -> None:
        super().check_model(model)
        name = type(self).__name__
        if not model.gaussian or model.bridge:
            raise UserError(f"{name} needs a path whose only noise is Gaussian, but this model is from another base or has a bridge.")
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
        with torch.enable_grad():
            along = torch.ones_like(value).requires_grad_()
            moved = torch.autograd.grad(value, event, along, create_graph=True, allow_unused=True)[0]
        if moved is None or not moved.requires_grad:
            raise UserError(f"{name} has the derivative 0 everywhere, as rounding and thresholds have, so that nothing follows from y.")
        if self.measurement.linear:
            self._check_linear(value, units)
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

    def _check_linear(self, at_zero: Tensor, units: Units) -> None:
        """Raise unless the measurement is 0 at 0, and minus twice as large for minus twice an event."""
        name = type(self.measurement).__name__
        if bool((at_zero != 0).any()):
            raise UserError(f"{name} measures other values than 0 of an event of zeros, so that it is not linear; use Nonlinear.")
        event = units.zeros()
        event = torch.arange(1, event.numel() + 1, dtype=torch.float64, device=event.device).cos().to(event).view_as(event)
        with torch.no_grad():
            once, other = self.measurement(event), self.measurement(-2 * event)
        rounding = 100 * torch.finfo(once.dtype).eps * once.abs().amax().clamp_min(1.0)
        if bool(((other + 2 * once).abs() > rounding).any()):
            raise UserError(f"{name} of -2 times an event is not -2 times that of the event, so that it is not linear; use Nonlinear.")

    def rows(self, rows: slice, n: int) -> Self:
        made = super().rows(rows, n)
        return made if self.units is None or len(self.y) == 1 else replace(made, y=cut(self.y, rows, n, "y"))
