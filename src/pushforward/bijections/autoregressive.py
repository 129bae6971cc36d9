"""Masked autoregressive maps: the parameters of each feature are predicted from the features before it; one pass in one direction."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward._modes import values_alone
from pushforward.bijections.columns import Columns, VectorBijection, summed
from pushforward.bijections.elementwise import Affine, Elementwise, Spline
from pushforward.dispatch import inherits, way_of
from pushforward.functional.jacobi import Solver, checked_solver, jacobi
from pushforward.nn.activation import Activation
from pushforward.nn.made import MADE
from pushforward.registry import export


class Autoregressive(VectorBijection):
    """Transform each feature with parameters that MADE predicts from those before it; forward is one pass, inverse one per feature."""

    def __init__(
        self,
        features: int,
        elementwise: Elementwise,
        hidden: Sequence[int],
        activation: Activation,
        classes: int | None,
        cond_features: int | None,
        dropout: float,
        solver: Solver,
    ) -> None:
        super().__init__(features)
        self.solver = checked_solver(solver)
        self.elementwise = elementwise
        condition: Any = {"classes": classes, "cond_features": cond_features}
        self.net = MADE(features, elementwise.parameters, hidden, activation=activation, dropout=dropout, **condition)

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        whole = x.whole()
        if inverse and self.solver == "jacobi" and values_alone():
            y, log_slopes = jacobi(lambda x: self.elementwise(whole, self.params(x, cond), True), whole, most=self.features)
        elif inverse:
            fast: Any = way_of(self.net, "solved") if inherits(self, Autoregressive, "_solved", "params") else None
            found = NotImplemented if fast is None else fast(self.net, whole, cond, self.elementwise)
            y, log_slopes = self._solved(whole, cond) if found is NotImplemented else found
        else:
            y, log_slopes = self.elementwise(whole, self.params(whole, cond), False)
        return x.having(y), summed(log_slopes)

    def params(self, x: Tensor, cond: Any) -> Tensor:
        """Return the raw parameters (parameters, features, n) that the network predicts from columns (features, n)."""
        fast = way_of(self.net, "columns")
        raw: Tensor = self.net(x.T, cond).permute(2, 1, 0) if fast is None else fast(self.net, x, cond)
        return raw.to(x.dtype)

    def _solved(self, z: Tensor, cond: Any) -> tuple[Tensor, Tensor | None]:
        """Return x and the log-slopes dx/dz, computed one feature at a time, each by one pass of the network."""
        known: list[Tensor] = []
        slopes: list[Any] = []
        for k, row in enumerate(z):
            x = torch.stack([*known, *z[k:]])  # the outputs for k do not depend on columns k and later
            y, log_slope = self.elementwise(row, self.params(x, cond)[:, k], True)
            known.append(y)
            slopes.append(log_slope)
        return torch.stack(known), None if slopes[0] is None else torch.stack(slopes)

    def extra_repr(self) -> str:
        return f"{self.features}, {self.elementwise}"


@export(
    "bijections.AffineAutoregressive",
    example=lambda: (AffineAutoregressive(5, (12, 12), classes=3), torch.randn(4, 5), torch.tensor([0, 2, 1, 0])),
    exactness="exact",
)
class AffineAutoregressive(Autoregressive):
    """Scale and shift each feature with parameters that a masked network predicts from the features before it.

        z_k = x_k exp(s_k(x_1 .. x_(k-1), cond)) + t_k(x_1 .. x_(k-1), cond),    |s| < bound,    log|det| = sum s

    Fast direction: forward, one pass (as in MAF); `Inverse` of it samples in one pass (as in IAF). The other direction takes one
    step per feature.

    Args:
        features: length of the vectors.
        hidden: widths of the network's hidden layers.
        bound: s is bound tanh(raw / bound), so that one layer scales by 1/7.4 to 7.4 at the default and cannot overflow.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels that `cond` may be, or None.
        cond_features: length of the vectors that `cond` may be, or None.
        dropout: fraction of hidden units dropped in training.
        solver: how the inverse is computed: "sequential", feature by feature, which "auto" takes too, as it was the faster on most sizes;
            or "jacobi", by passes over all features until nothing changes (without gradients; with them it is sequential).

    Raises:
        UserError: features < 1, a bound that is not positive, no such solver, or a network that cannot be.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Example:
        >>> layer = AffineAutoregressive(3)
        >>> x = torch.randn(2, 3)
        >>> torch.allclose(layer.inverse(layer(x)[0])[0], x, atol=1e-5)
        True

    Source: Papamakarios, Pavlakou and Murray, Masked autoregressive flow, 2017, arXiv 1705.07057, equations 3 to 5.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (128, 128),
        *,
        bound: float = 2.0,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        dropout: float = 0.0,
        solver: Solver = "auto",
    ) -> None:
        super().__init__(features, Affine(bound), hidden, activation, classes, cond_features, dropout, solver)


@export(
    "bijections.SplineAutoregressive",
    example=lambda: (SplineAutoregressive(4, 4, (9, 9), cond_features=2), 3 * torch.randn(4, 4), torch.randn(4, 2)),
    exactness="exact",
)
class SplineAutoregressive(Autoregressive):
    """Bend each feature along a rational-quadratic spline whose knots a masked network predicts from the features before it.

        z_k = spline(x_k; knots_k(x_1 .. x_(k-1), cond)) within [-bound, bound] and x_k beyond,    log|det| = sum log spline'

    Fast direction: forward, one pass; the inverse takes one step per feature (see `AffineAutoregressive`).

    Args:
        features: length of the vectors.
        bins: pieces of each spline.
        hidden: widths of the network's hidden layers.
        bound: the splines act on [-bound, bound]; beyond it z is x, so data should be of unit size.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels that `cond` may be, or None.
        cond_features: length of the vectors that `cond` may be, or None.
        dropout: fraction of hidden units dropped in training.
        solver: how the inverse is computed (see `AffineAutoregressive`).

    Raises:
        UserError: features < 1, fewer than 2 bins, a bound that is not positive, no such solver, or a network that cannot be.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Source: Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019, arXiv 1906.04032, section 3.
    """

    def __init__(
        self,
        features: int,
        bins: int = 8,
        hidden: Sequence[int] = (128, 128),
        *,
        bound: float = 5.0,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        dropout: float = 0.0,
        solver: Solver = "auto",
    ) -> None:
        super().__init__(features, Spline(bins, bound), hidden, activation, classes, cond_features, dropout, solver)
