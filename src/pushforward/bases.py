"""The distributions that models push forward onto data."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward.registry import export, namespace

namespace(__name__)


@export("bases.Gaussian", example=lambda: Gaussian((2,)))
class Gaussian(nn.Module):
    """Independent normal noise N(0, std²) in every number of the event.

        log p(z) = -|z|² / (2 std²) - d log(std sqrt(2 pi))

    Args:
        shape: the event's shape.
        std: standard deviation, positive.

    Example:
        >>> Gaussian((2,)).log_prob(torch.zeros(1, 2))
        tensor([-1.8379])
    """

    std: Tensor

    def __init__(self, shape: Sequence[int], std: float = 1.0) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("std", torch.tensor(float(std)), persistent=False)

    def sample(self, n: int, generator: _random.Generators = None) -> Tensor:
        """Return n draws (n, *shape), on the device and in the dtype of the model."""
        return _random.normal((n, *self.shape), generator, self.std.device, self.std.dtype) * self.std

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density (n,) in nats, in float32 or wider, of z (n, *shape)."""
        wide = torch.promote_types(z.dtype, torch.float32)
        scaled = (z.to(wide) / self.std).flatten(1)
        d = scaled.shape[1]
        return -0.5 * scaled.square().sum(1) - d * (math.log(2 * math.pi) / 2 + self.std.to(wide).log())

    def extra_repr(self) -> str:
        return f"{self.shape}, std={self.std:g}"
