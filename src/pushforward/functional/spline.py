"""Monotone rational-quadratic splines with linear tails: curves through knots with given slopes, inverted in closed form."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward._precision import wide
from pushforward.errors import UserError
from pushforward.registry import export

MIN_BIN = 1e-3  # least width and height of a bin, as a fraction of the total
MIN_DERIVATIVE = 1e-3
_ONE = math.log(math.expm1(1 - MIN_DERIVATIVE))  # softplus of this plus MIN_DERIVATIVE is 1: raw zeros give the identity


def _example() -> tuple:
    raw = torch.linspace(-1, 1, 22, dtype=torch.float64).reshape(2, 11).sin()
    return (torch.tensor([[-4.0, 0.3], [1.2, -0.4], [2.9, 7.0]], dtype=torch.float64), *spline_knots(raw, bound=3.0))


@export("functional.rational_quadratic_spline", example=_example)
def rational_quadratic_spline(
    x: Float[Tensor, "n ..."],
    positions: Float[Tensor, "*rows knots"],
    heights: Float[Tensor, "*rows knots"],
    derivatives: Float[Tensor, "*rows knots"],
    inverse: bool = False,
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n ..."]]:
    """Apply a monotone rational-quadratic spline with linear tails to each element.

        y = y_0 + h (s θ² + d_0 q) / (s + (d_0 + d_1 - 2 s) q),    θ = (x - x_0) / w,    q = θ (1 - θ),    s = h / w

    in a bin of width w and height h whose lower knot is (x_0, y_0) and whose ends have the slopes d_0 and d_1. Beyond the outermost knots
    the curve continues with their slope. An x on a knot, or rounded to beyond it, is in one of the adjacent bins.

    Args:
        x: numbers (n, *shape).
        positions: x-coordinates of the knots, increasing along the last axis, broadcast to (n, *shape, knots).
        heights: y-coordinates of the knots, increasing, likewise.
        derivatives: slopes at the knots, positive, likewise.
        inverse: whether to map heights to positions.

    Returns:
        y (n, *shape), and the logarithm of each slope dy/dx (n, *shape), in float32 or wider. (Sum it for a log-determinant.)

    Example:
        >>> knots = torch.tensor([-1.0, 0.0, 1.0])
        >>> rational_quadratic_spline(torch.tensor([-2.0, 0.5]), knots, knots, torch.ones(3))
        (tensor([-2.0000,  0.5000]), tensor([0., 0.]))

    Source: Durkan et al., Neural spline flows, 2019, arXiv 1906.04032, equations 4 to 8; Gregory and Delbourgo, 1982.
    Ours: the inverse is written as a sum of terms of one sign, which avoids cancellation and roots of negative numbers.
    """
    dtype = wide(x)
    table = torch.stack([one.to(dtype).expand(*x.shape, -1).movedim(-1, 0) for one in (positions, heights, derivatives)])
    start = table[1 if inverse else 0]
    clamped = torch.minimum(torch.maximum(x.to(dtype), start[0]), start[-1])
    k = _bin(clamped, start[1:-1])
    low, high = table.gather(1, torch.stack((k, k + 1)).expand(3, *(-1,) * (k.ndim + 1))).unbind(1)
    y, log_slope = _piece(x.to(dtype), clamped, low[0], high[0] - low[0], low[1], high[1] - low[1], low[2], high[2], inverse)
    return y.to(x.dtype), log_slope


@export("functional.spline_knots", example=lambda: (torch.linspace(-2, 2, 22, dtype=torch.float64).reshape(2, 11).sin(), 3.0))
def spline_knots(
    raw: Float[Tensor, "n ... parameters"], bound: float
) -> tuple[Float[Tensor, "n ... knots"], Float[Tensor, "n ... knots"], Float[Tensor, "n ... knots"]]:
    """Turn 3 K - 1 raw parameters into the K + 1 knots of a spline on [-bound, bound] with outer slopes 1; zeros give the identity.

        widths, heights: 2 bound (0.001 + (1 - 0.001 K) softmax),    inner slopes: 0.001 + softplus

    Args:
        raw: K parameters for the widths, K for the heights and K - 1 for the inner slopes along the last axis, K at least 2.
        bound: where the tails begin.

    Returns:
        positions, heights and derivatives (n, ..., K + 1), as `rational_quadratic_spline` takes them, in float32 or wider.

    Raises:
        UserError: the last axis is not 3 K - 1 long.

    Example:
        >>> positions, heights, derivatives = spline_knots(torch.zeros(1, 5), bound=1.0)
        >>> derivatives
        tensor([[1.0000, 1.0000, 1.0000]])

    Source: Durkan et al., 1906.04032, section 3.1.
    """
    bins = (raw.shape[-1] + 1) // 3
    if raw.shape[-1] != 3 * bins - 1 or bins < 2:
        raise UserError(f"raw has {raw.shape[-1]} numbers on its last axis, but a spline of K bins needs 3 K - 1, with K at least 2.")
    sizes, inner = raw.to(wide(raw)).movedim(-1, 0).tensor_split((2 * bins,))
    cumulative = _cumulative(sizes.unflatten(0, (2, bins)))
    knots = torch.addcmul(torch.full_like(cumulative, -bound), cumulative, 2 * bound / cumulative[:, -1:])
    positions, heights = knots.movedim(1, -1)
    return positions, heights, _slopes(_with_ends(inner)).movedim(0, -1)


def spline_of_columns(x: Tensor, raw: Tensor, bins: int, bound: float, inverse: bool, periodic: bool = False) -> tuple[Tensor, Tensor]:
    """Return y and log slopes, both (features, n), of the splines whose parameters are raw (3 bins - 1, features, n).

    Periodic ones have 3 bins parameters: the slope at one end, which is that at the other, is one of them.

    The same as `rational_quadratic_spline(x, *spline_knots(raw, bound))` with the knots first, so that every operation runs over features
    and batch together. The softmax is never divided by its sum (x is multiplied instead), and positions, heights and slopes are computed
    only for the two knots next to x.
    """
    dtype = wide(x)
    value = x.to(dtype)
    clamped = value.clamp(-bound, bound)
    cumulative = _cumulative(raw[: 2 * bins].to(dtype).unflatten(0, (2, bins)))
    unit = 2 * bound / cumulative[:, -1]
    place = int(inverse)
    k = _bin((clamped + bound) / unit[place], cumulative[place, 1:-1])
    around = torch.stack((k, k + 1))
    knots = cumulative.gather(1, around.expand(2, *(-1,) * around.ndim))
    slopes = torch.cat((raw[2 * bins :], raw[2 * bins : 2 * bins + 1])) + _ONE if periodic else _with_ends(raw[2 * bins :])
    d_0, d_1 = _slopes(slopes.gather(0, around).to(dtype))
    low, size = knots[:, 0] * unit - bound, (knots[:, 1] - knots[:, 0]) * unit
    y, log_slope = _piece(value, clamped, low[0], size[0], low[1], size[1], d_0, d_1, inverse)
    return y.to(x.dtype), log_slope


def _cumulative(raw: Tensor) -> Tensor:
    """Return the unnormalised knots (2, K + 1, ...) of raw sizes (2, K, ...), the cumulative sums 0, e_1, e_1 + e_2, ...

    Cumulative sum and least bin size are one product with a constant matrix, whose forward and backward cost half of cumsum's.
    """
    bins = raw.shape[1]
    if bins * MIN_BIN >= 1:
        raise UserError(f"bins is {bins}, but each is at least {MIN_BIN} of the whole; use fewer than {round(1 / MIN_BIN)}.")
    sizes = (raw - raw.detach().amax(1, keepdim=True)).exp()
    step = torch.arange(bins + 1, dtype=raw.dtype, device=raw.device)[:, None]
    weights = torch.ones(bins + 1, bins, dtype=raw.dtype, device=raw.device).tril(-1) + step * (MIN_BIN / (1 - MIN_BIN * bins))
    with torch.autocast(raw.device.type, enabled=False):
        return torch.matmul(weights, sizes.flatten(2)).unflatten(2, raw.shape[2:]) if raw.ndim > 2 else sizes @ weights.T


def _with_ends(inner: Tensor) -> Tensor:
    """Return the raw slopes with those of the tails (slope 1) added at both ends of the first axis."""
    end = inner.new_full((1, *inner.shape[1:]), _ONE)
    return torch.cat((end, inner + _ONE, end))


def _slopes(raw: Tensor) -> Tensor:
    return torch.nn.functional.softplus(raw) + MIN_DERIVATIVE


def _bin(x: Tensor, inner: Tensor) -> Tensor:
    """Return the number of inner knots (K - 1, ...) at or below x: the index of the bin, 0 to K - 1 despite rounding."""
    return (x >= inner).sum(0)


def _piece(
    x: Tensor, clamped: Tensor, x_0: Tensor, w: Tensor, y_0: Tensor, h: Tensor, d_0: Tensor, d_1: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Return y and log dy/dx from the bin that contains `clamped`; x - clamped is extrapolated linearly."""
    s = h / w
    theta = _solve(((clamped - y_0) / h).clamp(0, 1), s, d_0, d_1) if inverse else ((clamped - x_0) / w).clamp(0, 1)
    rest = 1 - theta
    q = theta * rest
    scale = s / torch.addcmul(s, d_0 + d_1 - 2 * s, q)  # s divided by the denominator
    slope = scale.square() * (d_1 * theta.square() + 2 * s * q + d_0 * rest.square())
    if inverse:
        return torch.addcmul(x_0, w, theta) + (x - clamped) / slope, -slope.log()
    inside = y_0 + w * scale * torch.addcmul(d_0 * q, s, theta.square())
    return torch.addcmul(inside, x - clamped, slope), slope.log()


def _solve(eta: Tensor, s: Tensor, d_0: Tensor, d_1: Tensor) -> Tensor:
    """Return the theta at which a piece reaches the fraction eta of its height.

    With g = d_0 (1 - eta) - d_1 eta the discriminant of the quadratic is g² + 4 s² eta (1 - eta). Measured from the end that the sign of g
    selects, theta is 2 s eta / (|g| + 2 s eta + root), in which all terms are positive.
    """
    rest = 1 - eta
    g = d_0 * rest - d_1 * eta
    root = torch.addcmul(g.square(), 4 * s.square(), eta * rest).sqrt()
    near = torch.where(g >= 0, eta, rest)
    part = 2 * s * near
    theta = part / (g.abs() + part + root)
    return torch.where(g >= 0, theta, 1 - theta)
