"""A network whose input, output and target have unit variance at every noise level."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pushforward._checks import like_input
from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.paths.path import Path
from pushforward.registry import export


@export("nn.Preconditioned")
class Preconditioned(nn.Module):
    """Predict data as a weighted sum of x and of the output of a network for scaled x (EDM preconditioning).

        data(x, t) = c_skip y + c_out net(c_in y, t, cond),    y = x / alpha, s = sigma / alpha
        c_skip = d² / (s² + d²),  c_out = s d / sqrt(s² + d²),  c_in = 1 / sqrt(s² + d²),  d = data_std

    At low noise the prediction is close to x and the network's errors count little; at high noise it is the network's output. The network
    receives as its time the position of log(s) between its least (0) and highest (1) value: the paper's ln(s) / 4 up to an affine map.

    Args:
        net: called as net(x, t, cond).
        path: the path of x_t; alpha and sigma must not vanish at the ends of its interval.
        data_std: standard deviation of the data.
        boundary: whether the prediction is y exactly at the lowest noise s_min of the path, as consistency models require: s is replaced by
            s - s_min in c_skip and in the numerator of c_out.

    Raises:
        UserError: data_std is not positive.
        ShapeError: the network returns another shape than x's.

    Source: Karras et al. (EDM), 2206.00364, eq. 7 and table 1.
    """

    def __init__(self, net: nn.Module | Callable[..., Tensor], path: Path, data_std: float = 1.0, boundary: bool = False) -> None:
        super().__init__()
        if not data_std > 0:
            raise UserError(f"data_std is {data_std}, but a standard deviation is positive; 1 is that of standardised data.")
        self.net, self.path, self.data_std, self.boundary = net, path, data_std, boundary
        self._ends = None if isinstance(path, nn.Module) else _ends(path, torch.zeros(0, dtype=torch.float64, device="cpu")).tolist()

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the data prediction (n, *shape) for x (n, *shape) and t (n,)."""
        alpha, sigma, d = self.path.alpha(t), self.path.sigma(t), self.data_std
        scale = torch.hypot(sigma, alpha * d)  # alpha sqrt(s² + d²)
        clean, noisy = _ends(self.path, t) if self._ends is None else self._ends  # the parameters of a path may change
        raw = like_input(self.net(x * per_row(1 / scale, x), (clean - self.path.log_snr(t)) / (clean - noisy), cond), x)
        if not self.boundary:
            return torch.addcmul(x * per_row(alpha * d**2 / scale**2, x), raw, per_row(sigma * d / scale, x))
        above = sigma / alpha - torch.exp(-torch.as_tensor(clean, dtype=t.dtype, device=t.device))  # s - s_min
        skip = d**2 / (alpha * (above.square() + d**2))
        return torch.addcmul(x * per_row(skip, x), raw, per_row(above * d * alpha / scale, x))


def _ends(path: Path, like: Tensor) -> Tensor:
    """Return log-SNR at both ends of a path's interval."""
    return path.log_snr(torch.tensor(path.interval, dtype=like.dtype, device=like.device))
