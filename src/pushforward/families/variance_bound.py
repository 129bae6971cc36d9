"""The loss of a learned variance of the reverse steps, from the variational bound."""

import torch
from torch import Tensor

from pushforward.functional.prediction import per_row
from pushforward.paths.path import Path

WEIGHT = 0.001  # of the bound relative to the regression loss: 2102.09672, section 3.1
STEPS = 1000  # for a path in continuous time


def variance_bound(path: Path, data: Tensor, predicted: Tensor, share: Tensor, t: Tensor, low: float) -> Tensor:
    """Return WEIGHT times the bound's terms (n, *shape), in nats per dimension over all steps, with the prediction detached.

        KL(q(x_s | x_t, data) | p(x_s | x_t)) = (2 r share + exp(-2 r share) (1 + (snr_s - snr_t) (predicted - data)²) - 1) / 2

    for a step from t to s = t - 1 / steps (t / 2 within a step of the data), with snr = alpha² / sigma² and r = log(sigma_t / sigma_s), so
    that exp(2 r share) is the variance in units of the smallest.

    Args:
        path: the schedule.
        data: data (n, *shape).
        predicted: the network's data prediction (n, *shape).
        share: the predicted share of the variance (n, *shape).
        t: times (n,).
        low: the least time.

    Source: Nichol and Dhariwal, 2102.09672, equations 4, 15 and 16; the form of the mean's term: Kingma et al., 2107.00630, equation 13.
    """
    steps = path.knots or STEPS
    s = torch.maximum(t - 1 / steps, t / 2).clamp(min=low)
    snr_t, snr_s = (torch.exp(2 * path.log_snr(one)) for one in (t, s))
    error = (predicted.detach() - data).square() * per_row(snr_s - snr_t, data)
    ratio = per_row(2 * (path.sigma(t).log() - path.sigma(s).log()), share) * share
    return WEIGHT * steps * 0.5 * (ratio + torch.exp(-ratio) * (1 + error) - 1)
