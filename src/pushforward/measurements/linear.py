"""A general linear measurement: a matrix, or a linear function."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward.errors import ShapeError, UserError
from pushforward.measurements.measurement import Measurement, check_finite
from pushforward.registry import export


@export("measurements.Linear", example=lambda: Linear(torch.tensor([[1.0, -1.0]]), 0.1))
@dataclass(frozen=True, eq=False)
class Linear(Measurement):
    """Measure linear combinations of an event's elements.

        y = A x + noise n

    Args:
        operator: a matrix A (m, d), applied to the event's d elements in a row, or a function that maps events (n, *shape) to
            (n, *measured) linearly. The adjoint of a function is found by autograd.
        noise: standard deviation of y, one number or a tensor of the shape of one measured event.

    Raises:
        UserError: the operator is neither a matrix of floating point nor a function.
        ShapeError: the matrix has another number of columns than the event has elements.

    Example:
        >>> difference = Linear(torch.tensor([[1.0, -1.0]]), noise=0.1)
        >>> difference(torch.tensor([[3.0, 1.0]]))
        tensor([[2.]])
    """

    operator: Tensor | Callable[[Tensor], Tensor]
    noise: float | Tensor = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.operator, Tensor):
            if self.operator.ndim != 2 or not self.operator.is_floating_point():
                raise UserError(
                    f"operator is {shown(self.operator)} of {self.operator.dtype}, but it is a matrix (m, d) of floating point, or a "
                    "function."
                )
            check_finite("operator", self.operator)
        elif not callable(self.operator):
            raise UserError(f"operator is {shown(self.operator)}, but it is a matrix (m, d) of floating point, or a function.")

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(self.operator, Tensor):
            return x.flatten(1) @ self.operator.to(x).T
        return self.operator(x)

    def shape_of(self, x: Tensor) -> tuple[int, ...]:
        shape = tuple(x.shape[1:])
        if not isinstance(self.operator, Tensor):
            return super().shape_of(x)
        rows, columns = self.operator.shape
        if columns != torch.Size(shape).numel():
            raise ShapeError(
                f"operator has shape {(rows, columns)}, but an event of shape {shape} has {torch.Size(shape).numel()} elements; give a "
                f"matrix with that many columns."
            )
        return (rows,)
