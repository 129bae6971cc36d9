"""Inpainting: some elements of an event are measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.errors import ShapeError, UserError
from pushforward.measurements.measurement import Measurement
from pushforward.registry import export


@export("measurements.Mask", example=lambda: Mask(torch.tensor([1.0, 0.0]), 0.1))
@dataclass(frozen=True, eq=False)
class Mask(Measurement):
    """Measure the elements of an event where a mask is 1; y is 0 elsewhere, and is not read there.

        y = mask x + noise n

    Args:
        mask: 1 where an element is measured and 0 where it is not, of a shape that broadcasts to the event's. A mask that differs from
            sample to sample is written as NaN in y instead, with the mask 1.
        noise: standard deviation of y, one number or a tensor of the event's shape.

    Raises:
        UserError: the mask has other values than 0 and 1.
        ShapeError: it does not broadcast to the event's shape.

    Example:
        >>> left = Mask(torch.tensor([1.0, 1.0, 0.0, 0.0]))
        >>> left(torch.ones(1, 1, 2, 4))[0, 0]
        tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.]])
    """

    mask: Tensor | float = 1.0
    noise: float | Tensor = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        mask = torch.as_tensor(self.mask)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise UserError("mask has other values than 0 and 1, but it is 1 where an element is measured and 0 where it is not.")

    def __call__(self, x: Tensor) -> Tensor:
        return x * torch.as_tensor(self.mask).to(x)

    def shape_of(self, x: Tensor) -> tuple[int, ...]:
        shape = tuple(x.shape[1:])
        mask = torch.as_tensor(self.mask)
        try:
            mask.expand(shape)
        except RuntimeError:
            raise ShapeError(f"mask has shape {tuple(mask.shape)}, but an event has {shape}; give that, or one that broadcasts.") from None
        return shape

    def known(self, y: Tensor) -> Tensor:
        return super().known(y) & torch.as_tensor(self.mask, device=y.device).bool()
