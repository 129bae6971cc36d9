"""Changes of training images that leave them images of the same kind, drawn anew each time an image is seen.

An augmentation is a frozen object called as augmentation(x, generator) on a whole batch x (n, channels, height, width). Where `generator`
is a list of k, each draws for its own n / k images, so that what happens to an image belongs to its place in the batch and not to the
process that computes it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward import _random
from pushforward.errors import ShapeError, UserError
from pushforward.registry import export, namespace

namespace(__name__)


class Augmentation:
    """A random change of images; to add one, write `apply`."""

    def apply(self, x: Tensor, uniform: Tensor) -> Tensor:
        """Return images (n, channels, height, width) changed as two numbers in [0, 1) for each, uniform (n, 2), decide."""
        raise NotImplementedError

    def __call__(self, x: Tensor, generator: _random.Generators = None) -> Tensor:
        """Return the images (n, channels, height, width) changed; x is not written to."""
        if x.ndim != 4:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but {type(self).__name__} changes images (n, channels, height, width).")
        if len(x) == 0:
            return x
        return self.apply(x, _random.uniform((len(x), 2), generator, x.device, torch.float32))


@export("augmentations.Flip", example=lambda: Flip())
@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirror an image left to right, or leave it.

    Args:
        probability: of mirroring, in [0, 1].

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
    """Move an image by a whole number of pixels, -pixels to pixels, each way alike; its edge is repeated where it moved away.

    Args:
        pixels: how far at most, down or up and right or left, at least 0.

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
            raise UserError(f"pixels is {self.pixels!r}, but it must be a whole number, at least 0; try 2.")

    def apply(self, x: Tensor, uniform: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        moved = (uniform * (2 * self.pixels + 1)).floor().long() - self.pixels
        rows = (torch.arange(height, device=x.device) - moved[:, :1]).clamp(0, height - 1)
        columns = (torch.arange(width, device=x.device) - moved[:, 1:]).clamp(0, width - 1)
        taken = x.gather(2, rows[:, None, :, None].expand(n, channels, height, width))
        return taken.gather(3, columns[:, None, None, :].expand(n, channels, height, width))
