"""Couplings: one half of the features parametrises a transform of the other, so both directions cost one pass of any network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.bijections.columns import Columns, VectorBijection, summed
from pushforward.bijections.elementwise import Additive, Affine, Elementwise, Spline
from pushforward.dispatch import way_of
from pushforward.errors import UserError
from pushforward.nn.activation import Activation
from pushforward.nn.coupling import CouplingNet
from pushforward.registry import export


class Coupling(VectorBijection):
    """Keep one half of x and transform each feature of the other with parameters that a network predicts from the kept half."""

    inputs = 1  # of the network, for each kept feature

    def __init__(
        self,
        features: int,
        elementwise: Elementwise,
        hidden: Sequence[int],
        swap: bool,
        activation: Activation,
        classes: int | None,
        cond_features: int | None,
        dropout: float,
    ) -> None:
        super().__init__(features)
        if features < 2:
            raise UserError(f"features is {features}, but a coupling needs at least 2: one to keep, one to change; `maf` takes 1.")
        self.first, self.swap, self.elementwise = features // 2, swap, elementwise
        kept, changed = (features - self.first, self.first) if swap else (self.first, features - self.first)
        self.net = CouplingNet(self.inputs * kept, elementwise.parameters * changed, hidden, activation, classes, cond_features, dropout)

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        kept, changed = self.split(x)
        changed, log_abs_det = self.transform(changed, self.params(kept, cond), inverse)
        return x.having(*self.merge(kept, changed)), log_abs_det

    def split(self, x: Columns) -> tuple[Tensor, Tensor]:
        """Return the kept half and the half to transform, as columns."""
        first, second = x.halves(self.first)
        return (second, first) if self.swap else (first, second)

    def params(self, kept: Tensor, cond: Any) -> Tensor:
        """Return the raw parameters (parameters, transformed features, n) that the network predicts from the kept half."""
        read, fast = self.embedded(kept), way_of(self.net, "columns")
        raw: Tensor = self.net(read.T, cond).T if fast is None else fast(self.net, read, cond)
        return raw.to(kept.dtype).reshape(self.elementwise.parameters, self.features - kept.shape[0], kept.shape[1])

    def embedded(self, kept: Tensor) -> Tensor:
        """Return what the network reads of the kept half, columns (inputs times features, n)."""
        return kept

    def transform(self, changed: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor | None]:
        """Return the transformed half (or, if inverse, the original one), and its log_abs_det (n,) or None for 0."""
        changed, log_slopes = self.elementwise(changed, params, inverse)
        return changed, summed(log_slopes)

    def merge(self, kept: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
        """Return both halves merged, in the order of the features."""
        return (changed, kept) if self.swap else (kept, changed)

    def reaches(self, touched: Tensor) -> Tensor:
        place = torch.arange(self.features, device=touched.device) < self.first
        return touched | (place if self.swap else ~place)

    def extra_repr(self) -> str:
        return f"{self.features}, {self.elementwise}, swap={self.swap}"


@export(
    "bijections.AdditiveCoupling",
    example=lambda: (AdditiveCoupling(5, (8, 8), classes=3), torch.randn(4, 5), torch.tensor([0, 2, 1, 0])),
    exactness="exact",
)
class AdditiveCoupling(Coupling):
    """Shift one half of x by the output of a network for the other half; volume is preserved.

        z_a = x_a,    z_b = x_b + t(x_a, cond),    log|det| = 0

    Args:
        features: length of the vectors, at least 2; the halves have features // 2 numbers and the rest.
        hidden: widths of the network's hidden layers.
        swap: change the first half and keep the second, instead of the other way round; a chain alternates it.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels that `cond` may be, or None.
        cond_features: length of the vectors that `cond` may be, or None.
        dropout: fraction of hidden units dropped in training.

    Raises:
        UserError: features < 2, or a network that cannot be.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Example:
        >>> AdditiveCoupling(4)(torch.zeros(2, 4))[1]
        tensor([0., 0.])

    Source: Dinh, Krueger and Bengio, NICE, 2014, arXiv 1410.8516, section 3.2.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (128, 128),
        *,
        swap: bool = False,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features, Additive(), hidden, swap, activation, classes, cond_features, dropout)


@export(
    "bijections.AffineCoupling",
    example=lambda: (AffineCoupling(5, (8, 8), swap=True, cond_features=2), torch.randn(4, 5), torch.randn(4, 2)),
    exactness="exact",
)
class AffineCoupling(Coupling):
    """Scale and shift one half of x with parameters that a network predicts from the other half.

        z_a = x_a,    z_b = x_b exp(s(x_a, cond)) + t(x_a, cond),    |s| < bound,    log|det| = sum s

    Args:
        features: length of the vectors, at least 2; the halves have features // 2 numbers and the rest.
        hidden: widths of the network's hidden layers.
        bound: s is bound tanh(raw / bound), so that one layer scales by 1/7.4 to 7.4 at the default and cannot overflow.
        swap: change the first half and keep the second, instead of the other way round; a chain alternates it.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels that `cond` may be, or None.
        cond_features: length of the vectors that `cond` may be, or None.
        dropout: fraction of hidden units dropped in training.

    Raises:
        UserError: features < 2, a bound that is not positive, or a network that cannot be.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Example:
        >>> z, log_abs_det = AffineCoupling(4)(torch.randn(2, 4))
        >>> z.shape, log_abs_det.shape
        (torch.Size([2, 4]), torch.Size([2]))

    Source: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803, equations 7 and 8.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (128, 128),
        *,
        bound: float = 2.0,
        swap: bool = False,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features, Affine(bound), hidden, swap, activation, classes, cond_features, dropout)


@export("bijections.SplineCoupling", example=lambda: (SplineCoupling(5, 4, (8, 8)), 3 * torch.randn(4, 5), None), exactness="exact")
class SplineCoupling(Coupling):
    """Map each feature of one half of x through a rational-quadratic spline whose knots a network predicts from the other half.

        z_a = x_a,    z_b = spline(x_b; knots(x_a, cond)) within [-bound, bound] and x_b beyond,    log|det| = sum log spline'

    Args:
        features: length of the vectors, at least 2; the halves have features // 2 numbers and the rest.
        bins: pieces of each spline.
        hidden: widths of the network's hidden layers.
        bound: the splines act on [-bound, bound]; beyond it z_b is x_b, so data should be of unit size.
        swap: change the first half and keep the second, instead of the other way round; a chain alternates it.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels that `cond` may be, or None.
        cond_features: length of the vectors that `cond` may be, or None.
        dropout: fraction of hidden units dropped in training.

    Raises:
        UserError: features < 2, fewer than 2 bins, a bound that is not positive, or a network that cannot be.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Example:
        >>> x = torch.full((1, 4), 9.0)  # in the tails
        >>> torch.allclose(SplineCoupling(4)(x)[0], x)
        True

    Source: Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, 2019, arXiv 1906.04032, section 3.
    """

    def __init__(
        self,
        features: int,
        bins: int = 8,
        hidden: Sequence[int] = (128, 128),
        *,
        bound: float = 5.0,
        swap: bool = False,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features, Spline(bins, bound), hidden, swap, activation, classes, cond_features, dropout)
