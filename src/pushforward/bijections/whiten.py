"""Whitening to the units of a model: uncorrelated features of mean 0 and variance 1."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward._precision import uncast, wide
from pushforward.bijections.bijection import Bijection
from pushforward.errors import ShapeError
from pushforward.functional.levels import Levels, cells
from pushforward.registry import export


def _example() -> tuple:
    bijection = Whiten((4,))
    bijection.initialise(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).cumsum(1))
    return bijection, torch.randn(4, 4), None


@export("bijections.Whiten", example=_example, exactness="exact")
class Whiten(Bijection):
    """Subtract the data's mean and multiply by the inverse Cholesky factor of its covariance, so that a Gaussian becomes N(0, I).

        z = L^-1 (x - mean),    L L' = D^1/2 ((1 - a) R + a I) D^1/2,    log|det| = -sum log L_kk

    D has the variances and R the correlations of the data. The weight a of no correlation is the one that minimises the expected squared
    error if the data are Gaussian (oracle approximating shrinkage); it falls as 1 / n, and keeps L regular where there are fewer rows than
    features. L is lower triangular, so the order of autoregressive layers is kept. Until `initialise` has seen data it is the identity.

    Args:
        shape: shape of one event, of which all elements are mixed.
        levels: number of values of quantised data, for a table one entry a column: their dequantisation noise counts as variance.

    Raises:
        ShapeError: the data to fit has another shape, or is a single row.

    Example:
        >>> whiten = Whiten((2,))
        >>> whiten.initialise(torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1.0, 3.0], [0.0, 0.5]]))
        >>> z, log_abs_det = whiten(torch.tensor([[1.0, 3.0]]))
        >>> bool((z - torch.tensor([[1.0, 0.0]])).abs().max() < 0.1)
        True

    Source: Chen, Wiesel, Eldar and Hero, Shrinkage algorithms for MMSE covariance estimation, 2010, arXiv 0907.4698, equation 23.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, shape: Sequence[int], levels: Levels = None) -> None:
        super().__init__()
        self.shape, self.levels = tuple(shape), levels
        size = math.prod(self.shape)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("factor", torch.eye(size))

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit mean and covariance to the rows x (n, *shape) that are finite, at least 2; a constant feature keeps deviation 1."""
        if tuple(x.shape[1:]) != self.shape or len(x) < 2:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but whitening needs at least two rows of shape {self.shape}.")
        noise = cells(self.levels, x).double().expand(self.shape).flatten() / 12
        rows = x.flatten(1).double()
        rows = rows[rows.isfinite().all(1)]
        mean = rows.mean(0)
        covariance = (rows - mean).T @ (rows - mean) / max(len(rows) - 1, 1) + noise.diag()
        std = covariance.diag().sqrt()
        std = torch.where(std > 1e-12, std, 1.0)
        shrunk = _shrunk(covariance / std.outer(std), len(rows))
        self.mean.copy_(mean)
        self.factor.copy_(std[:, None] * torch.linalg.cholesky(shrunk))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        with uncast(x):
            dtype = wide(x)
            factor = self.factor.to(dtype)
            centred = x.flatten(1).to(dtype) - self.mean.to(dtype)
            z = torch.linalg.solve_triangular(factor, centred.T, upper=False).T
            return z.reshape(x.shape).to(x.dtype), -factor.diagonal().log().sum()

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        with uncast(z):
            dtype = wide(z)
            factor = self.factor.to(dtype)
            x = torch.addmm(self.mean.to(dtype), z.flatten(1).to(dtype), factor.T)
            return x.reshape(z.shape).to(z.dtype), factor.diagonal().log().sum()

    def extra_repr(self) -> str:
        return f"{self.shape}"


def _shrunk(correlations: Tensor, n: int) -> Tensor:
    """Return (1 - a) R + a I for correlations R (d, d) of n rows; constant features, whose variance is 0, get 1."""
    d = len(correlations)
    identity = torch.eye(d, dtype=correlations.dtype, device=correlations.device)
    correlations = torch.where(identity.bool(), 1.0, correlations)
    squared = float(correlations.square().sum())  # tr R^2; tr R = d
    excess = (n + 1 - 2 / d) * (squared - d)
    share = 1.0 if excess <= 0 else min(1.0, ((1 - 2 / d) * squared + d**2) / excess)
    share = max(share, 1e-6)  # columns that repeat one another
    return (1 - share) * correlations + share * identity
