"""A measurement by any differentiable function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pushforward._checks import shown
from pushforward.errors import UserError
from pushforward.measurements.measurement import Measurement
from pushforward.registry import export


@export("measurements.Nonlinear", example=lambda: Nonlinear(lambda x: x.square(), 0.1))
@dataclass(frozen=True, eq=False)
class Nonlinear(Measurement):
    """Measure a differentiable function of an event.

        y = f(x) + noise n

    Guidance linearises it at the expected data of each evaluation.

    Args:
        function: maps events (n, *shape) to (n, *measured), each row independently.
        noise: standard deviation of y, one number or a tensor of the shape of one measured event.

    Raises:
        UserError: it is not callable.

    Example:
        >>> import torch
        >>> radius = Nonlinear(lambda x: x.square().sum(1, keepdim=True), noise=0.1)
        >>> radius(torch.tensor([[3.0, 4.0]]))
        tensor([[25.]])
    """

    function: Callable[[Tensor], Tensor]
    noise: float | Tensor = 0.05

    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise UserError(f"function is {shown(self.function)}, but it maps events (n, *shape) to what is measured of them.")

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)
