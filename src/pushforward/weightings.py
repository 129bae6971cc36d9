"""Loss weights over t: a weight converts one loss into another, independently of what the network predicts.

A weighting is defined for the squared error of the data prediction. Since kind = a x + b data, the error of another prediction type is b
times that of the data, and its weight is divided by b².
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward._checks import CheckedNumbers
from pushforward.errors import UserError
from pushforward.functional.prediction import Kind
from pushforward.paths.path import Path
from pushforward.registry import export, namespace

namespace(__name__)
MOST = 40.0  # log-SNR is infinite where sigma is 0; exp(2 * 40) is still a float32


class Weighting(CheckedNumbers):
    """A weight w(t) of the data prediction's squared error; to add one, implement `of_data`."""

    def of_data(self, path: Path, t: Tensor) -> Tensor:
        """Return the weight (n,) of the data prediction's squared error at t (n,)."""
        raise NotImplementedError

    def __call__(self, path: Path, kind: Kind, t: Tensor) -> Tensor:
        """Return the factor (n,) on the squared error of this prediction type."""
        _, b = path.coefficients(kind, "data", t)
        return self.of_data(path, t) * torch.as_tensor(b) ** 2


@export("weightings.NoiseLoss", example=lambda: NoiseLoss())
@dataclass(frozen=True)
class NoiseLoss(Weighting):
    """The loss of the noise prediction, for any prediction type: DDPM's simple loss, weight SNR = (alpha / sigma)².

    Source: Ho et al., 2006.11239, eq. 14.
    """

    def of_data(self, path: Path, t: Tensor) -> Tensor:
        return _snr(path, t)


@export("weightings.MinSNR", example=lambda: MinSNR())
@dataclass(frozen=True)
class MinSNR(Weighting):
    """SNR weighting with an upper bound, min(SNR, gamma), so that low-noise times do not dominate.

    Args:
        gamma: the upper bound; the paper uses 5.

    Raises:
        UserError: gamma is not positive.

    Source: Hang et al., 2303.09556, section 3.4.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gamma > 0:
            raise UserError(f"gamma is {self.gamma}, but an upper bound of the SNR must be positive; try 5.")

    def of_data(self, path: Path, t: Tensor) -> Tensor:
        return _snr(path, t).clamp_max(self.gamma)


@export("weightings.Unit", example=lambda: Unit())
@dataclass(frozen=True)
class Unit(Weighting):
    """Weight SNR + 1 / data_std²: a network with EDM's preconditioning starts with the same loss at all times.

    Args:
        data_std: standard deviation of the (preprocessed) data.

    Raises:
        UserError: data_std is not positive.

    Source: Karras et al. (EDM), 2206.00364, section 5: (sigma² + data_std²) / (sigma data_std)² at alpha = 1.
    """

    data_std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data_std > 0:
            raise UserError(f"data_std is {self.data_std}, but a standard deviation must be positive; standardised data has 1.")

    def of_data(self, path: Path, t: Tensor) -> Tensor:
        return _snr(path, t) + self.data_std**-2


def _snr(path: Path, t: Tensor) -> Tensor:
    return torch.exp(2 * path.log_snr(t).clamp_max(MOST))
