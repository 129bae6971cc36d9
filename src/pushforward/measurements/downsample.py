"""Super-resolution: an image, series or volume is measured at a lower resolution."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from pushforward._checks import whole
from pushforward.errors import ShapeError
from pushforward.measurements.measurement import Measurement, spatial
from pushforward.registry import export

POOLS = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


@export("measurements.Downsample", example=lambda: Downsample(2, 0.1))
@dataclass(frozen=True, eq=False)
class Downsample(Measurement):
    """Measure the mean of each block of an image (channels, height, width), or of a series or volume.

        y = mean of x over blocks of factor elements along each side + noise n

    Args:
        factor: side of a block, which divides the sides of the event.
        noise: standard deviation of y, one number or a tensor of the shape of one measured event.

    Raises:
        UserError: the factor is no integer of at least 1.
        ShapeError: the event has no sides, or the factor does not divide one.

    Example:
        >>> import torch
        >>> Downsample(2)(torch.arange(16.0).view(1, 1, 4, 4))[0, 0]
        tensor([[ 2.5000,  4.5000],
                [10.5000, 12.5000]])
    """

    factor: int
    noise: float | Tensor = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("factor", self.factor, 1, hint="2 halves the resolution")

    def __call__(self, x: Tensor) -> Tensor:
        return POOLS[x.ndim - 3](x, self.factor)

    def shape_of(self, x: Tensor) -> tuple[int, ...]:
        shape = tuple(x.shape[1:])
        sides = spatial("Downsample", shape)
        if any(side % self.factor for side in sides):
            raise ShapeError(f"factor is {self.factor}, but it must divide the sides {sides} of an event.")
        return (shape[0], *(side // self.factor for side in sides))
