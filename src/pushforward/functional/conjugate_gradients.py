"""Conjugate gradients: a linear system for each row of a batch, solved by products with its matrix alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.functional.prediction import per_row


def conjugate_gradients(product: Callable[[Tensor], Tensor], b: Tensor, least: Tensor, iterations: int, rtol: float = 1e-6) -> Tensor:
    """Return u (n, *shape) with M u = b for each row, M symmetric and not below a diagonal matrix.

    A row ends where its residual is below rtol |b|, or where p' M p < p' least p for its direction p: an estimated M (a Jacobian of a
    trained network) is no positive matrix there, and the solution so far is kept.

    Args:
        product: maps p (n, *shape) to M p, each row independently.
        b: right-hand sides (n, *shape).
        least: the diagonal (n, *shape), at least 0.
        iterations: largest number of products.
        rtol: tolerance on the residual, relative to b.
    """
    unit = magnitude(b)  # without it, squares of small or large units vanish or overflow in float32
    b = b / unit
    u, residual, direction = torch.zeros_like(b), b, b
    size = _dot(b, b)
    enough = rtol**2 * size
    active = size > 0
    for _ in range(iterations):
        if not bool(active.any()):
            break
        image = product(direction)
        curvature = _dot(direction, image)
        # Rounding alone may bring a direction without any other curvature slightly below its least one.
        active = active & (curvature > 0) & (curvature >= (1 - 1e-3) * _dot(direction, least * direction))
        step = per_row(torch.where(active, size / torch.where(active, curvature, 1), 0), b)
        u, residual = u + step * direction, residual - step * image
        left = _dot(residual, residual)
        active = active & (left > enough)
        direction = residual + per_row(torch.where(active, left / torch.where(size > 0, size, 1), 0), b) * direction
        size = left
    return u * unit


def magnitude(v: Tensor) -> Tensor:
    """Return a power of 2 near the largest absolute value of each row, to broadcast to v (n, *shape); 1 for a row of zeros."""
    largest = v[:, None].flatten(1).abs().amax(1) if v[:1].numel() else v.new_zeros(len(v))
    exponent = torch.frexp(largest.detach()).exponent.clamp(-120, 120)
    return per_row(torch.ldexp(torch.ones_like(largest), exponent), v)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a[:, None].flatten(1), b[:, None].flatten(1))
