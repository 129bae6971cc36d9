# --8<-- [start:new]
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

import pushforward as pf
from pushforward.registry import api_export

export = functools.partial(api_export, package="my_paths")


@export("paths.Power", example=lambda: Power(2.0))
@dataclass(frozen=True)
class Power(pf.paths.Path):
    """alpha = 1 - t^p, sigma = t: the data persists longer than on the linear path.

    Args:
        p: 1 is the linear path.
    """

    p: float = 2.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.p

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self.p * t ** (self.p - 1)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, log_snr: Tensor) -> Tensor:
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(60):  # bisection: log-SNR falls with t
            middle = (low + high) / 2
            before = self.log_snr(middle) > log_snr
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        return (low + high) / 2


# --8<-- [end:new]


# --8<-- [start:use]
mixture, path = pf.data.three_gaussians(), Power(2.0)
for prediction in ("velocity", "noise", "data", "score"):
    model = pf.families.PathModel(mixture.net(path, prediction), (2,), path, prediction)
    x = mixture.sample(200, generator=torch.Generator().manual_seed(0))
    error = (model.log_prob(x) - mixture.log_prob(x)).abs().mean()
    print(f"{prediction:8} on {model.interval}: likelihood off by {error:.4f} nats")
pf.testing.check_path(path)
print("all laws of paths hold")
# --8<-- [end:use]
