"""Whitening to the units of a model: zero mean, and the identity as covariance."""

from typing import Any

import torch
from torch import Tensor

from pushforward._precision import uncast, wide
from pushforward.bijections.columns import Columns, VectorBijection
from pushforward.errors import ShapeError
from pushforward.registry import export


def _example() -> tuple:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(20, 3, generator=generator) @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 3.0]])
    bijection = Whiten(3)
    bijection.initialise(mixed + 1)
    return bijection, mixed[:4], None


@export("bijections.Whiten", example=_example, exactness="exact")
class Whiten(VectorBijection):
    """Subtract the data's mean and remove their correlations, by the Cholesky factor of their covariance.

        z = L^-1 (x - mean),    L L' = (1 - r) S + r (tr S / d) I,    log|det| = -sum log L_kk

    S is the covariance of the n rows to fit. Its shrinkage r is that of an oracle for Gaussian data (OAS), so that few rows of many
    features give a regular matrix; for many rows it vanishes:

        r = min(1, (a + m²) / ((n + 1) (a - m² / d))),    a = tr S² / d²,    m = tr S / d

    Features are scaled to unit deviation first, as the shrinkage is the same for all. Until `initialise` has seen data it is the identity.

    Args:
        features: length of the vectors, d.

    Raises:
        ShapeError: the data to fit have another shape.

    Example:
        >>> whiten = Whiten(2)
        >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[3.0, 2.0], [0.0, 1.0]])
        >>> whiten.initialise(x)
        >>> whiten(x)[0].T.cov().round(decimals=1).abs()
        tensor([[1., 0.],
                [0., 1.]])

    Source: Chen, Wiesel, Eldar and Hero, Shrinkage algorithms for MMSE covariance estimation, 2010, arXiv 0907.4698, equation 23.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("factor", torch.eye(features))

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit the mean and the factor to x (n, features), n at least 2; a constant feature is only shifted, up to the shrinkage."""
        if x.ndim != 2 or x.shape[1] != self.features or len(x) < 2:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but whitening needs at least two rows of {self.features} features.")
        x = x.double()
        constant = x.std(0) == 0
        std = torch.where(constant, 1.0, x.std(0, correction=0))
        covariance = shrunk_covariance((x - x.mean(0)) / std) + torch.diag(constant.double())
        self.mean.copy_(x.mean(0))
        self.factor.copy_(std[:, None] * torch.linalg.cholesky(covariance))

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        columns = x.whole()
        with uncast(columns):
            dtype = wide(columns)  # triangular solves do not support bfloat16
            factor, mean = self.factor.to(dtype), self.mean.to(dtype)[:, None]
            total = factor.diagonal().log().sum()
            if inverse:
                return x.having(torch.addmm(mean, factor, columns.to(dtype)).to(columns.dtype)), total
            y = torch.linalg.solve_triangular(factor, columns.to(dtype) - mean, upper=False)
        return x.having(y.to(columns.dtype)), -total


def shrunk_covariance(x: Tensor) -> Tensor:
    """Return the covariance (d, d) of centred rows (n, d), shrunk towards a multiple of the identity (OAS)."""
    n, d = x.shape
    s = x.T @ x / n
    mean, square = s.trace() / d, s.square().mean()
    gap = (n + 1) * (square - mean**2 / d)
    r = 1.0 if gap <= 0 else min(1.0, float((square + mean**2) / gap))
    shrunk: Tensor = (1 - r) * s
    shrunk.diagonal().add_(r * mean)
    return shrunk
