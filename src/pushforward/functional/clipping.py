"""Static clipping and dynamic thresholding of data predictions."""

import math

from torch import Tensor

from pushforward.functional.prediction import per_row


def clipped(data: Tensor, low: float, high: float, threshold: float | None = None, limit: float = math.inf) -> Tensor:
    """Return data (n, *shape) within [low, high].

    Args:
        data: the data.
        low: least value.
        high: largest value.
        threshold: a quantile, or None to clip. With it, and s the quantile of |data| over the event in units where the range is [-1, 1],
            but at least 1, data beyond s are clipped to it and all are divided by it.
        limit: the largest s.
    """
    if threshold is None:
        return data.clamp(low, high)
    center, reach = (low + high) / 2, (high - low) / 2
    scaled = (data - center) / reach
    s = per_row(row_quantile(scaled.flatten(1).abs(), threshold).clamp(1, limit), scaled)
    return center + reach * scaled.clamp(-s, s) / s


def row_quantile(rows: Tensor, q: float) -> Tensor:
    """Return the quantile (n,) of each row (n, k), interpolated as torch.quantile does, which takes no more than 16 million values."""
    place = q * (rows.shape[1] - 1)
    below, above = (rows.kthvalue(int(k) + 1, dim=1).values for k in (math.floor(place), math.ceil(place)))
    return below.lerp(above, place - math.floor(place))
