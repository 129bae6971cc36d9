"""Random augmentations of training images, redrawn every time an image is loaded.

An augmentation is a frozen object called as augmentation(x, generator) on a batch x (n, channels, height, width). If `generator` is a
list of k generators, each one draws for its n / k images, so the augmentation of an image depends on its position in the batch and not
on the process that computes it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward import _random
from pushforward.errors import ShapeError, UserError
from pushforward.registry import export, namespace

namespace(__name__)


class Augmentation:
    """A random augmentation of images; to add one, implement `apply`."""

    def apply(self, x: Tensor, uniform: Tensor) -> Tensor:
        """Return augmented images (n, channels, height, width); uniform (n, 2) holds two random numbers in [0, 1) per image."""
        raise NotImplementedError

    def __call__(self, x: Tensor, generator: _random.Generators = None) -> Tensor:
        """Return the augmented images (n, channels, height, width); x is not modified."""
        if x.ndim != 4:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but {type(self).__name__} expects images (n, channels, height, width).")
        if len(x) == 0:
            return x
        return self.apply(x, _random.uniform((len(x), 2), generator, x.device, torch.float32))


@export("augmentations.Flip", example=lambda: Flip())
@dataclass(frozen=True)
class Flip(Augmentation):
    """Flip images horizontally with a given probability.

    Args:
        probability: of a flip, in [0, 1].

    Example:
        >>> import torch
        >>> from pushforward import augmentations
        >>> augmentations.Flip(probability=1.0)(torch.tensor([[[[1.0, 2.0, 3.0]]]]))
        tensor([[[[3., 2., 1.]]]])
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"probability is {self.probability}, but it must be in 0 to 1; try 0.5.")

    def apply(self, x: Tensor, uniform: Tensor) -> Tensor:
        return torch.where((uniform[:, 0] < self.probability)[:, None, None, None], x.flip(-1), x)


@export("augmentations.Shift", example=lambda: Shift())
@dataclass(frozen=True)
class Shift(Augmentation):
    """Shift images by up to `pixels` pixels in each direction, uniformly; the border is replicated.

    Args:
        pixels: largest shift along each axis, at least 0.

    Example:
        >>> import torch
        >>> from pushforward import augmentations
        >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> augmentations.Shift(pixels=1)(image, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 4, 4])
    """

    pixels: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, int) or self.pixels < 0:
            raise UserError(f"pixels is {self.pixels!r}, but it must be an integer of at least 0; try 2.")

    def apply(self, x: Tensor, uniform: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        moved = (uniform * (2 * self.pixels + 1)).floor().long() - self.pixels
        rows = (torch.arange(height, device=x.device) - moved[:, :1]).clamp(0, height - 1)
        columns = (torch.arange(width, device=x.device) - moved[:, 1:]).clamp(0, width - 1)
        taken = x.gather(2, rows[:, None, :, None].expand(n, channels, height, width))
        return taken.gather(3, columns[:, None, None, :].expand(n, channels, height, width))
