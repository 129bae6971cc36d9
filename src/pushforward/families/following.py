"""A network trained on one path as the velocity along another: the same data and noise at the same log-SNR."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pushforward._checks import like_input
from pushforward.functional.prediction import Kind, per_row
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction


class Following(nn.Module):
    """velocity(x, tau) along `path`, from a network that predicts `kind` along `trained`.

    At the time t with log-SNR_t = log-SNR_tau the trained path is at x_t = x_tau / c, where c is the ratio of the lengths of (alpha,
    sigma); the network's prediction of data and noise there is combined with path's own alpha' and sigma'.
    """

    def __init__(
        self, net: nn.Module | Callable[..., Tensor], trained: Path, kind: Kind, path: Path, interval: tuple[float, float]
    ) -> None:
        super().__init__()
        self.net, self.trained, self.kind, self.path, self.interval = net, trained, kind, path, interval

    def forward(self, x: Tensor, tau: Tensor, cond: Any = None) -> Tensor:
        t = self.trained.time(self.path.log_snr(tau)).clamp(*self.interval)
        c = torch.hypot(self.path.alpha(tau), self.path.sigma(tau)) / torch.hypot(self.trained.alpha(t), self.trained.sigma(t))
        x = x / per_row(c, x)
        prediction = Prediction(self.trained, self.kind, like_input(self.net(x, t, cond), x), x, t)
        return prediction.data * per_row(self.path.alpha_dot(tau), x) + prediction.noise * per_row(self.path.sigma_dot(tau), x)


def common_interval(trained: Path, interval: tuple[float, float], path: Path) -> tuple[float, float]:
    """Return the part of `path`'s interval whose log-SNRs the trained path also has on its interval."""
    ends = trained.log_snr(torch.tensor(interval, dtype=torch.float64))
    low, high = path.interval
    own = path.log_snr(torch.tensor([low, high], dtype=torch.float64))
    if ends[0] < own[0]:
        low = float(path.time(ends[0]))
    if ends[1] > own[1]:
        high = float(path.time(ends[1]))
    return low, high
