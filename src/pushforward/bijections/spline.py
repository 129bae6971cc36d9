"""An elementwise spline with learned knots for each element of the event."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.elementwise import Spline
from pushforward.functional.spline import rational_quadratic_spline, spline_knots
from pushforward.registry import export


def _example() -> tuple:
    bijection = RationalQuadraticSpline((3,), bins=4)
    nn.init.normal_(bijection.raw)
    return bijection, 3 * torch.randn(4, 3), None


@export("bijections.RationalQuadraticSpline", example=_example, exactness="exact")
class RationalQuadraticSpline(Bijection):
    """Map each element through its own learned spline: `functional.rational_quadratic_spline` with `functional.spline_knots`.

    It is initialised as the identity, and outside [-bound, bound] it stays the identity.

    Args:
        shape: the event's shape.
        bins: pieces of each spline.
        bound: where the tails begin.

    Raises:
        UserError: fewer than 2 bins, or a bound that is not positive.

    Source: Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019, arXiv 1906.04032, section 3.1.
    """

    def __init__(self, shape: Sequence[int], bins: int = 8, bound: float = 5.0) -> None:
        super().__init__()
        self.bound = bound
        self.raw = nn.Parameter(torch.zeros(*shape, Spline(bins, bound).parameters))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._bend(x, inverse=False)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._bend(z, inverse=True)

    def _bend(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        y, log_slopes = rational_quadratic_spline(x, *spline_knots(self.raw, self.bound), inverse=inverse)
        return y, log_slopes.flatten(1).sum(1)
