"""Linear maps that mix features, so that the next coupling transforms what the last one kept: permutations, LU, orthogonal."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._checks import shown
from pushforward._precision import uncast, wide
from pushforward.bijections.columns import Columns, VectorBijection, moved
from pushforward.errors import UserError
from pushforward.registry import export


@export("bijections.Permutation", example=lambda: (Permutation([2, 0, 3, 1]), torch.randn(4, 4), None), exactness="exact")
class Permutation(VectorBijection):
    """Permute the features.

        z_k = x_(order[k]),    log|det| = 0

    Args:
        order: a permutation of 0, 1, ..., features - 1.

    Raises:
        UserError: order is not a permutation.

    Example:
        >>> Permutation([2, 0, 1])(torch.tensor([[1.0, 2.0, 3.0]]))[0]
        tensor([[3., 1., 2.]])
    """

    order: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        if not hasattr(order, "__len__"):
            raise UserError(f"order is {shown(order)}, but it is a permutation, such as [2, 0, 1]; Reverse(features) reverses.")
        super().__init__(len(order))
        if sorted(order) != list(range(len(order))):
            raise UserError(f"order is {list(order)}, but a permutation has each of 0 to {len(order) - 1} once.")
        self.register_buffer("order", torch.tensor(list(order)))

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        return x.having(x.whole().index_select(0, torch.argsort(self.order) if inverse else self.order)), None

    def reaches(self, touched: Tensor) -> Tensor:
        return touched[self.order]


@export("bijections.Reverse", example=lambda: (Reverse(5), torch.randn(4, 5), None), exactness="exact")
class Reverse(VectorBijection):
    """Reverse the order of the features: z_k = x_(features - 1 - k), log|det| = 0.

    Args:
        features: length of the vectors.

    Example:
        >>> Reverse(3)(torch.tensor([[1.0, 2.0, 3.0]]))[0]
        tensor([[3., 2., 1.]])
    """

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        return x.having(*(part.flip(0) for part in reversed(x.parts))), None

    def reaches(self, touched: Tensor) -> Tensor:
        return touched.flip(0)


@export("bijections.LULinear", example=lambda: (moved(LULinear(4)), torch.randn(4, 4), None), exactness="exact")
class LULinear(VectorBijection):
    """Multiply by a matrix that is stored as its triangular factors, and shift.

        z = L U x + b,    L lower with ones on its diagonal, U upper with exp(s) on its own,    log|det| = sum s

    It is never singular and is initialised as the identity; forward costs a matrix product, the inverse two triangular solves.

    Args:
        features: length of the vectors.

    Example:
        >>> LULinear(3)(torch.ones(1, 3))
        (tensor([[1., 1., 1.]], grad_fn=<ViewBackward0>), tensor([0.], grad_fn=<CloneBackward0>))

    Source: Oliva et al., Transformation autoregressive networks, 2018, arXiv 1801.09819, section 3.2; Durkan et al., 1906.04032, section 3.
    Ours: no permutation in addition to the factors.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.off_diagonal = nn.Parameter(torch.zeros(features, features))  # L below the diagonal, U above it
        self.log_diagonal = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        columns = x.whole()
        with uncast(columns):  # both directions must use the same matrix
            y, log_abs_det = self._multiplied(columns, inverse)
        return x.having(y), log_abs_det

    def _multiplied(self, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        dtype = wide(x)  # triangular solves do not support bfloat16
        s = self.log_diagonal.to(dtype)
        lower = self.off_diagonal.to(dtype).tril(-1) + torch.eye(self.features, dtype=dtype, device=x.device)
        upper = self.off_diagonal.to(dtype).triu(1) + torch.diag(s.exp())
        if inverse:
            shifted = x.to(dtype) - self.bias.to(dtype)[:, None]
            half = torch.linalg.solve_triangular(lower, shifted, upper=False, unitriangular=True)
            return torch.linalg.solve_triangular(upper, half, upper=True).to(x.dtype), -s.sum()
        return torch.addmm(self.bias[:, None].to(x.dtype), (lower @ upper).to(x.dtype), x), s.sum()


@export("bijections.Orthogonal", example=lambda: (moved(Orthogonal(4)), torch.randn(4, 4), None), exactness="exact")
class Orthogonal(VectorBijection):
    """Multiply by an orthogonal matrix, a product of Householder reflections.

        z = H_1 H_2 ... H_m x,    H_i = I - 2 v_i v_i' / |v_i|²,    log|det| = 0

    v_i is 0 above entry i and 1 at entry i, so that for m = features any orthogonal matrix with determinant (-1)^m can be represented.

    Args:
        features: length of the vectors.
        reflections: m, from 1 to features; None is features.

    Raises:
        UserError: reflections outside 1 to features.

    Example:
        >>> z, log_abs_det = Orthogonal(3)(torch.tensor([[3.0, 4.0, 0.0]]))
        >>> round(float(z.norm().detach()), 4), float(log_abs_det)
        (5.0, 0.0)

    Source: Tomczak and Welling, Improving variational auto-encoders using Householder flow, 2016, arXiv 1611.09630, section 3.
    """

    def __init__(self, features: int, reflections: int | None = None) -> None:
        super().__init__(features)
        reflections = features if reflections is None else reflections
        if not 1 <= reflections <= features:
            raise UserError(f"reflections is {reflections}, but there are from 1 to {features} of them, one per feature at most.")
        self.vectors = nn.Parameter(torch.randn(features, reflections) / features**0.5)  # only the entries below the diagonal are used

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        columns = x.whole()
        with uncast(columns):
            q = reflections_of(self.vectors.to(wide(columns)))
            return x.having((q.T if inverse else q).to(columns.dtype) @ columns), None


def reflections_of(vectors: Tensor) -> Tensor:
    """Return the product (features, features) of Householder reflections whose vectors (features, m) are below the diagonal."""
    below = vectors.tril(-1)
    rest = below.shape[0] - below.shape[1]  # padded with scales of 0 to a square matrix, so that all columns of the product are computed
    return torch.linalg.householder_product(F.pad(below, (0, rest)), F.pad(2 / (1 + below.square().sum(0)), (0, rest)))
