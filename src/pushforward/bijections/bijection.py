"""What all bijections share: forward and inverse, each with its log|det|."""

from typing import Any

import torch
from torch import Tensor, nn

from pushforward.registry import export


@export("bijections.Bijection")
class Bijection(nn.Module):
    """An invertible map; to add one, write `forward` and `inverse`, each returning its value and log_abs_det (n,).

    log_abs_det is the logarithm of the absolute determinant of the Jacobian of the direction that was taken, in nats, in float32 or wider;
    inverse(forward(x)) gives x back, and the two log-determinants cancel.
    """

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z (n, *shape) and log_abs_det (n,) of the map from data x (n, *shape) to noise."""
        raise NotImplementedError

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x (n, *shape) and log_abs_det (n,) of the map from noise z (n, *shape) to data."""
        raise NotImplementedError

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Let data-dependent parts start from x (n, *shape); most bijections have none."""

    def reaches(self, touched: Tensor) -> Tensor:
        """Return which numbers of the event the bijections so far have changed, after this one as well, given (*shape) booleans.

        This says all of them, as is right of what mixes; a coupling says which it changes, so that what none does can be warned of.
        """
        return torch.ones_like(touched)
