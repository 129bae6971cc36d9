"""Bijections of vectors, which compute with features outermost: a batch of columns (features, n) has one long contiguous axis.

A user sees rows (n, features). Within a chain the columns stay columns, and they may be in two parts, as couplings leave them: the halves
of a vector are joined again only where a step needs all features at once.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.bijections.bijection import Bijection
from pushforward.errors import ShapeError, UserError

Parts = tuple[Tensor, ...]  # columns (features_i, n), in the order of the features


class VectorBijection(Bijection):
    """A bijection of vectors (n, features), or of events (n, *shape) of so many numbers; to add one, write `columns`.

    Args:
        features: numbers a vector.

    Raises:
        UserError: features < 1.
        ShapeError: x has another number of features.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 1:
            raise UserError(f"features is {features}, but it must be at least 1.")
        self.features = features

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return through([self], x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return through([self], z, cond, inverse=True)

    def columns(self, parts: Parts, cond: Any, inverse: bool) -> tuple[Parts, Tensor | None]:
        """Return the parts mapped, and log_abs_det (n,) or one number for all, or None for 0."""
        raise NotImplementedError


def through(steps: Sequence[Bijection], x: Tensor, cond: Any, inverse: bool) -> tuple[Tensor, Tensor]:
    """Return x (n, *shape) mapped by all steps in turn (from the last if inverse) and the sum of their log-determinants (n,)."""
    total = torch.zeros(x.shape[0], dtype=wide(x), device=x.device)
    parts: Parts | None = None
    shape = x.shape
    for step in reversed(steps) if inverse else steps:
        features = features_of(step)
        if features is not None:
            if parts is None:
                shape, parts = x.shape, (columns_of(x, features),)
            parts, log_abs_det = step.columns(parts, cond, inverse)  # type: ignore[operator]
        else:
            if parts is not None:
                x, parts = rows_of(parts, shape), None
            x, log_abs_det = step.inverse(x, cond) if inverse else step(x, cond)
        if log_abs_det is not None:
            total = total + log_abs_det
    return (x if parts is None else rows_of(parts, shape)), total


def features_of(step: Bijection) -> int | None:
    """Return how many features a bijection of vectors has, or None for any other; chains and inverses of such are such."""
    return getattr(step, "features", None) if hasattr(step, "columns") else None


def joined(parts: Parts) -> Tensor:
    """Return all columns (features, n) in one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def halves(parts: Parts, split: int) -> tuple[Tensor, Tensor]:
    """Return the columns in two parts, the first of which has `split` features; no copy where they are so already, or in one."""
    if len(parts) == 2 and parts[0].shape[0] == split:
        return parts[0], parts[1]
    whole = joined(parts)
    return whole[:split], whole[split:]


def per_part(parts: Parts, *vectors: Tensor) -> list[tuple[Tensor, ...]]:
    """Return each part with the pieces of vectors (features,) that belong to it, as columns (features_i, 1)."""
    sizes = [part.shape[0] for part in parts]
    return list(zip(parts, *(vector[:, None].split(sizes) for vector in vectors), strict=True))


def summed(log_slopes: Tensor | None) -> Tensor | None:
    """Return the sum over features (n,) of log-slopes (features, n), in float32 or wider; None, for 0, stays."""
    return None if log_slopes is None else log_slopes.sum(0, dtype=wide(log_slopes))


def wide(x: Tensor) -> torch.dtype:
    """Return the dtype in which log-determinants of x are summed: float32 or wider."""
    return torch.promote_types(x.dtype, torch.float32)


def moved(bijection: Bijection) -> Bijection:
    """Return a bijection away from where it starts, for examples: the laws would otherwise be those of the identity."""
    for p in bijection.parameters():
        nn.init.normal_(p, std=0.5)
    return bijection


class _Transposed(torch.autograd.Function):
    """A transposed copy whose gradient is a copy too: operations on two layouts at once would take several times as long."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.T.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.T.contiguous()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.T.contiguous()


def _transposed(x: Tensor) -> Tensor:
    # A compiler chooses layouts by itself, and cannot see into a function with its own jvp.
    return _Transposed.apply(x) if x.requires_grad and not torch.compiler.is_compiling() else x.T.contiguous()


def columns_of(x: Tensor, features: int) -> Tensor:
    """Return rows (n, *shape) as columns (features, n)."""
    if x.ndim < 2 or math.prod(x.shape[1:]) != features:
        raise ShapeError(f"x has shape {tuple(x.shape)}, but this bijection needs (n, {features}); reshape it.")
    return _transposed(x.reshape(x.shape[0], features))


def rows_of(parts: Parts, shape: Sequence[int]) -> Tensor:
    """Return columns in parts as rows of this shape (n, *shape)."""
    return _transposed(joined(parts)).view(shape)
