"""The units of a table: each column on a scale of its own, then standardised."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection
from pushforward.column import Column
from pushforward.errors import ShapeError
from pushforward.nn.constant import Constant
from pushforward.registry import export

KNOTS = 33  # of a quantile scale
EQUAL = 1e-12  # deviation of a column relative to its largest value, below which it is constant


def _example() -> tuple:
    columns = [
        Column("any"),
        Column("positive", scale="log", lower=0.0, offset=0.1),
        Column("share", scale="logit", lower=0.0, upper=1.0),
        Column("heavy", scale="quantile"),
    ]
    bijection = TableUnits(columns)
    rows = torch.rand(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bijection.initialise(rows)
    return bijection, 0.1 + 0.8 * torch.rand(4, 4), None


@export("bijections.TableUnits", example=_example, exactness="exact")
class TableUnits(Bijection):
    """Put each column of a table on its scale, then subtract the mean and divide by the standard deviation on that scale.

        none      s = x
        log       s = log(x - lower + offset)
        logit     s = log p - log(1 - p),    p = (x - lower + offset) / (upper - lower + 2 offset)
        quantile  s piecewise linear, through the Gaussian's quantiles at those of the data, with straight tails
        z = (s - mean) / std,    log|det| = sum log |ds/dx| - log std

    Beyond the end of a scale z is NaN and log|det| -inf, so that a model with this `preprocess` gives such rows density 0; the inverse
    never leaves it. Until `initialise` has seen data, mean is 0, std is 1 and the quantile scale is the identity.

    Args:
        columns: one for each feature; `scale`, `lower`, `upper` and `offset` are read.

    Raises:
        ShapeError: the data have another number of columns.

    Example:
        >>> from pushforward import data
        >>> units = TableUnits([data.Column("size", scale="log", lower=0.0)])
        >>> units(torch.tensor([[1.0]]))[0], units.push(torch.tensor([[-2.0]])) > 0
        (tensor([[0.]]), tensor([[True]]))
    """

    mean: Tensor
    std: Tensor
    knots: Tensor
    heights: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.places = {scale: [k for k, one in enumerate(self.columns) if one.scale == scale] for scale in ("log", "logit", "quantile")}
        self.order = list(range(len(self.columns)))  # see `_together`
        for place, k in enumerate(k for places in self.places.values() for k in places):
            self.order[k] = len(self.columns) + place
        self.ends = Constant(self._ends)
        quantiles = len(self.places["quantile"])
        self.register_buffer("mean", torch.zeros(len(self.columns)))
        self.register_buffer("std", torch.ones(len(self.columns)))
        if quantiles:
            self.register_buffer("knots", torch.linspace(-3, 3, KNOTS).repeat(quantiles, 1))
            self.register_buffer("heights", torch.linspace(-3, 3, KNOTS).repeat(quantiles, 1))

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Return the ends of the log and logit scales, (columns,) each; the upper one is only read on logit scales."""
        low = torch.tensor([(one.lower or 0.0) - one.offset for one in self.columns], dtype=torch.float64)
        high = [1.0 if one.upper is None else one.upper + one.offset for one in self.columns]
        return low, torch.tensor(high, dtype=torch.float64)

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit the quantiles, mean and deviation to x (n, columns), n at least 2; a constant column keeps deviation 1."""
        if tuple(x.shape[1:]) != (len(self.columns),) or len(x) < 2:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but these units need at least two rows of {len(self.columns)} columns.")
        x = x.double()
        if self.places["quantile"]:
            edge = 0.5 / len(x)
            probabilities = torch.linspace(edge, 1 - edge, KNOTS, dtype=torch.float64, device=x.device)
            knots = x[:, self.places["quantile"]].quantile(probabilities, dim=0).T
            size = knots.abs().amax(1, keepdim=True)
            width = (knots[:, -1:] - knots[:, :1]).maximum(1e-6 * torch.where(size > 0, size, 1.0))
            least = 1e-4 * width / KNOTS  # where values are equal
            steps = torch.cat((knots[:, :1], knots.diff().maximum(least)), dim=1)
            self.knots.copy_(steps.cumsum(1))
            self.heights.copy_(torch.special.ndtri(probabilities).expand_as(knots))
        s = self._scaled(x)[0]
        inside = s.isfinite()
        count = inside.sum(0).clamp_min(2)
        mean = torch.where(inside, s, 0.0).sum(0) / count
        std = (torch.where(inside, s - mean, 0.0).square().sum(0) / (count - 1)).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > EQUAL * torch.where(inside, s.abs(), 0.0).amax(0), std, 1.0))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        dtype = wide(x)
        s, log_slope = self._scaled(x.to(dtype))
        z = (s - self.mean.to(dtype)) / self.std.to(dtype)
        return z.to(x.dtype), (log_slope - self.std.to(dtype).log()).sum(1)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        dtype = wide(z)
        x, log_slope = self._unscaled(z.to(dtype) * self.std.to(dtype) + self.mean.to(dtype))
        return x.to(z.dtype), (self.std.to(dtype).log() - log_slope).sum(1)

    def _scaled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return s (n, columns), NaN beyond a scale's end, and log ds/dx, there -inf."""
        low, high = self.ends.like(x)
        s, log_slope = {"none": x}, {"none": torch.zeros_like(x)}
        if at := self.places["log"]:
            y = x[:, at] - low[at]
            outside = y <= 0
            inner = torch.where(outside, 1.0, y).log()  # so that the gradients of rows inside are finite
            s["log"], log_slope["log"] = torch.where(outside, math.nan, inner), torch.where(outside, -math.inf, -inner)
        if at := self.places["logit"]:
            width = high[at] - low[at]
            p = (x[:, at] - low[at]) / width
            outside = (p <= 0) | (p >= 1)
            inner = torch.logit(torch.where(outside, 0.5, p))
            s["logit"] = torch.where(outside, math.nan, inner)
            log_slope["logit"] = torch.where(outside, -math.inf, _logit_slope(inner) - width.log())
        if at := self.places["quantile"]:
            s["quantile"], log_slope["quantile"] = _piecewise(x[:, at], self.knots.to(x), self.heights.to(x))
        return self._together(s), self._together(log_slope)

    def _unscaled(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (n, columns), and log ds/dx at it."""
        low, high = self.ends.like(s)
        x, log_slope = {"none": s}, {"none": torch.zeros_like(s)}
        if at := self.places["log"]:
            x["log"], log_slope["log"] = low[at] + s[:, at].exp(), -s[:, at]
        if at := self.places["logit"]:
            width = high[at] - low[at]
            x["logit"], log_slope["logit"] = low[at] + width * s[:, at].sigmoid(), _logit_slope(s[:, at]) - width.log()
        if at := self.places["quantile"]:
            x["quantile"], inverse_slope = _piecewise(s[:, at], self.heights.to(s), self.knots.to(s))
            log_slope["quantile"] = -inverse_slope
        return self._together(x), self._together(log_slope)

    def _together(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the columns of all scales in order: those of `none` stand at their places, the others follow one another."""
        return torch.cat(list(parts.values()), dim=1)[:, self.order] if len(parts) > 1 else parts["none"]

    def extra_repr(self) -> str:
        return ", ".join(f"{scale}: {len(places)}" for scale, places in self.places.items() if places)


def _logit_slope(s: Tensor) -> Tensor:
    """Return log ds/dp of s = logit p, which is exact in both tails."""
    return torch.nn.functional.softplus(s) + torch.nn.functional.softplus(-s)


def _piecewise(x: Tensor, knots: Tensor, heights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the increasing piecewise linear functions through (knots, heights), (columns, k) each, at x (n, columns), and log-slopes.

    They are straight beyond their ends.
    """
    slopes = heights.diff() / knots.diff()
    piece = (x[..., None] >= knots[:, 1:-1]).sum(-1)
    at = torch.arange(len(knots), device=x.device), piece
    return heights[at] + (x - knots[at]) * slopes[at], slopes[at].log()
