"""Planar and radial flows: log-determinants in closed form, inverses not; for teaching, and for variational inference."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._precision import uncast, wide
from pushforward.bijections.columns import Columns, VectorBijection, moved
from pushforward.errors import NotInvertibleError
from pushforward.registry import export


class _OneWay(VectorBijection):
    def _refuse_inverse(self, inverse: bool) -> None:
        if inverse:
            name = type(self).__name__
            raise NotInvertibleError(
                f"{name} is one-way: its inverse has no closed form; use a coupling, or Inverse({name}(...)) for a flow that only samples."
            )


@export("bijections.Planar", example=lambda: (moved(Planar(3)), torch.randn(4, 3), None), exactness="one-way")
class Planar(_OneWay):
    """Move points along u by a function of their projection on w.

        z = x + u tanh(w'x + b),    log|det| = log|1 + u'w (1 - tanh²(w'x + b))|,    w'u > -1

    One-way: it has only a forward. A model's log_prob needs forward (data to noise); for a flow that only samples, wrap it in `Inverse`.

    Args:
        features: length of the vectors.

    Raises:
        NotInvertibleError: the inverse is asked for.

    Source: Rezende and Mohamed, Variational inference with normalizing flows, 2015, arXiv 1505.05770, equations 10 to 12 and appendix A.1.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.u = nn.Parameter(torch.randn(features) / features**0.5)
        self.w = nn.Parameter(torch.randn(features) / features**0.5)
        self.b = nn.Parameter(torch.zeros(()))

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        self._refuse_inverse(inverse)
        columns, w = x.whole(), self.w
        with uncast(columns):
            product = w @ self.u
            u = self.u + (F.softplus(product) - 1 - product) * w / w.square().sum()  # w'u is then softplus - 1, above -1
            h = torch.tanh(w @ columns + self.b)
            log_abs_det = (1 + (w @ u) * (1 - h.square())).to(wide(columns)).log()
        return x.having(columns + u[:, None] * h), log_abs_det


@export("bijections.Radial", example=lambda: (moved(Radial(3)), torch.randn(4, 3), None), exactness="one-way")
class Radial(_OneWay):
    """Move points towards or away from a centre, less the farther away they are.

        z = x + beta h (x - c),    h = 1 / (alpha + r),    r = |x - c|,    beta > -alpha
        log|det| = (features - 1) log(1 + beta h) + log(1 + beta alpha h²)

    One-way: it has only a forward (see `Planar`).

    Args:
        features: length of the vectors.

    Raises:
        NotInvertibleError: the inverse is asked for.

    Source: Rezende and Mohamed, Variational inference with normalizing flows, 2015, arXiv 1505.05770, equation 14 and appendix A.2.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.centre = nn.Parameter(torch.randn(features) / features**0.5)
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.raw_beta = nn.Parameter(torch.zeros(()))

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        self._refuse_inverse(inverse)
        columns = x.whole()
        alpha = self.log_alpha.exp()
        beta = F.softplus(self.raw_beta) - alpha
        away = columns - self.centre[:, None]
        h = 1 / (alpha + torch.linalg.vector_norm(away, dim=0))
        ring, ray = (beta * h).to(wide(columns)), (beta * alpha * h.square()).to(wide(columns))
        return x.having(torch.addcmul(columns, beta * h, away)), (self.features - 1) * ring.log1p() + ray.log1p()
