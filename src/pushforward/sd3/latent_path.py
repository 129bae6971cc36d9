"""The rectified flow of latents of any height and width."""

from torch import Tensor

from pushforward import _random
from pushforward.families.path_model import PathModel


class LatentPath(PathModel):
    """A PathModel whose loss takes latents of any height and width, each of which has its own noise; samples have those of `shape`."""

    @property
    def side_multiple(self) -> int | None:
        """The side of the network's patches."""
        return int(getattr(self.net, "patch", 1))  # a network of another package takes what it takes

    def _noise_for(self, x: Tensor, generator: _random.Generators) -> Tensor:
        return _random.normal(x.shape, generator, x.device, x.dtype)
