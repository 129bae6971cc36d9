"""Deblurring: an image, series or volume is measured after a convolution."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pushforward._checks import is_real, shown
from pushforward.errors import UserError
from pushforward.measurements.measurement import Measurement, check_finite, spatial
from pushforward.registry import export

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


@export("measurements.Blur", example=lambda: Blur(1.0, 0.1))
@dataclass(frozen=True, eq=False)
class Blur(Measurement):
    """Measure an image (channels, height, width), or a series or volume, after each channel was convolved with a kernel.

        y_i = sum_j kernel_j x_(i - j) + noise n

    y has the sides of x; outside, x is 0.

    Args:
        kernel: the kernel with an odd number of elements along each side, one dimension for each side of the event; or the standard
            deviation of a Gaussian one in elements, cut at three deviations and normalised.
        noise: standard deviation of y, one number or a tensor of the event's shape.

    Raises:
        UserError: the kernel has an even side, or no positive deviation.
        ShapeError: the event has another number of sides than the kernel.

    Example:
        >>> Blur(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))(torch.eye(3)[None, None])[0, 0]
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [0., 0., 0.]])
    """

    kernel: Tensor | float
    noise: float | Tensor = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.kernel, Tensor) and self.kernel.ndim:
            if not 1 <= self.kernel.ndim <= 3 or not self.kernel.is_floating_point() or any(side % 2 == 0 for side in self.kernel.shape):
                raise UserError(
                    f"kernel is {shown(self.kernel)} of {self.kernel.dtype}, but it is of floating point with 1 to 3 odd sides, such as "
                    "(5, 5)."
                )
            check_finite("kernel", self.kernel)
            return
        deviation = self.kernel.item() if isinstance(self.kernel, Tensor) else self.kernel
        if not is_real(deviation) or deviation <= 0:
            raise UserError(f"kernel is {shown(self.kernel)}, but it is a tensor, or as a number a standard deviation above 0.")

    def __call__(self, x: Tensor) -> Tensor:
        kernel = self._kernel(x.ndim - 2).to(x)
        # torch's convolution is a correlation: it reads the kernel in the other direction.
        weight = kernel.flip(tuple(range(kernel.ndim))).expand(x.shape[1], 1, *kernel.shape)
        return CONVOLUTIONS[kernel.ndim - 1](x, weight, padding=tuple(side // 2 for side in kernel.shape), groups=x.shape[1])

    def shape_of(self, x: Tensor) -> tuple[int, ...]:
        shape = tuple(x.shape[1:])
        spatial("this kernel", shape, self.kernel.ndim if isinstance(self.kernel, Tensor) and self.kernel.ndim else None)
        return shape

    def _kernel(self, sides: int) -> Tensor:
        """Return the kernel of an event with this many sides."""
        if isinstance(self.kernel, Tensor) and self.kernel.ndim:
            return self.kernel
        reach = max(1, round(3 * float(self.kernel)))
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / float(self.kernel)).square())
        line, kernel = line / line.sum(), torch.ones((), dtype=torch.float64)
        for _ in range(sides):
            kernel = kernel[..., None] * line
        return kernel
