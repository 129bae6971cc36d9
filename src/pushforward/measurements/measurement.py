"""What a measurement is: a function of an event, and the standard deviation of the noise on its result."""

from typing import ClassVar

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import CheckedNumbers, is_real, shown
from pushforward.errors import ShapeError, UserError, missing
from pushforward.registry import export


@export("measurements.Measurement")
class Measurement(CheckedNumbers):
    """A noisy function of an event; to add one, implement `__call__`, `shape_of` if only some events fit, and `linear` if it is.

        y = A(x) + noise n,    n ~ N(0, I)

    `linear` states that A is linear in x, which is checked at two events when it is used. `noise` is one number, or a tensor that
    broadcasts to one measured event, in the units of y.
    """

    noise: float | Tensor
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.noise, Tensor) and not is_real(self.noise):
            raise UserError(f"noise is {shown(self.noise)}, but it is a standard deviation: a number or a tensor of them.")
        noise = torch.as_tensor(self.noise)
        if not bool(torch.isfinite(noise).all()) or bool((noise < 0).any()):
            raise UserError(f"noise is {shown(self.noise)}, but it is a standard deviation: finite and at least 0 everywhere.")

    def __call__(self, x: Tensor) -> Tensor:
        """Return A(x) (n, *measured) of events x (n, *shape), without noise; differentiable."""
        raise missing(self, "__call__", "the measurement of events, without noise")

    def shape_of(self, x: Tensor) -> tuple[int, ...]:
        """Return the shape of one measured event, for events x (n, *shape).

        Raises:
            ShapeError: the measurement does not fit such events.
        """
        return tuple(self(x[:1]).shape[1:])

    def known(self, y: Tensor) -> Tensor:
        """Return which elements of y (n, *measured) were measured: those that are not NaN."""
        return ~y.isnan()

    def draw(self, x: Tensor, generator: _random.Generators = None) -> Tensor:
        """Return y (n, *measured) of events x (n, *shape), with noise.

        Args:
            x: the events.
            generator: randomness of the noise.

        Raises:
            ShapeError: the measurement does not fit these events.
        """
        self.shape_of(x)
        value = self(x)
        return value + self.deviation(value) * _random.normal(value.shape, generator, value.device, value.dtype)

    def deviation(self, y: Tensor) -> Tensor:
        """Return the noise's standard deviation in the shape, dtype and device of y (n, *measured).

        Raises:
            ShapeError: `noise` has another shape than one measured event.
        """
        noise = torch.as_tensor(self.noise, dtype=y.dtype, device=y.device)
        try:
            return noise.expand(y.shape[1:]).expand_as(y)
        except RuntimeError:
            raise ShapeError(
                f"noise has shape {tuple(noise.shape)}, but one measured event has {tuple(y.shape[1:])}; give one number, or that shape."
            ) from None


def spatial(name: str, shape: tuple[int, ...], dimensions: int | None = None) -> tuple[int, ...]:
    """Return the sides of an event (channels, *sides) of this shape, with this many sides if given, else with 1 to 3.

    Raises:
        ShapeError: it has another number of dimensions.
    """
    sides = shape[1:]
    if len(sides) == dimensions or (dimensions is None and 1 <= len(sides) <= 3):
        return sides
    needed = "1 to 3 sides" if dimensions is None else f"{dimensions} side{'s' * (dimensions != 1)}"
    raise ShapeError(f"an event has shape {shape}, but {name} needs channels and {needed}, such as (1, 8, 8) with two.")


def check_finite(name: str, values: Tensor) -> None:
    """Raise unless the numbers of a measurement are finite.

    Raises:
        UserError: one is not.
    """
    if not bool(values.isfinite().all()):
        raise UserError(f"{name} has {int((~values.isfinite()).sum())} values that are NaN or infinite, but all must be finite.")
