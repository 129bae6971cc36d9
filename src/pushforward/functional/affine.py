"""Elementwise scale and shift with predicted parameters: the transform of an affine coupling."""

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.registry import export


def _example() -> tuple:
    return tuple(torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in range(3))


@export("functional.bounded_affine", example=_example)
def bounded_affine(
    x: Float[Tensor, "n ..."], raw: Float[Tensor, "n ..."], shift: Float[Tensor, "n ..."], bound: float = 2.0, inverse: bool = False
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n ..."]]:
    """Scale each element by exp(s) and shift it, or invert this, with |s| below a bound so that nothing overflows.

        y = x exp(s) + shift,    s = bound tanh(raw / bound);    inverse: y = (x - shift) exp(-s)

    Args:
        x: numbers (n, *shape).
        raw: unbounded log-scales (n, *shape).
        shift: shift to add (n, *shape).
        bound: the bound of |s|; with 2, one layer scales by 1/7.4 to 7.4.
        inverse: whether to compute the inverse.

    Returns:
        y (n, *shape), and the logarithm of the slope dy/dx of each element (n, *shape), s or -s. (Sum it for a log-determinant.)

    Example:
        >>> bounded_affine(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([1.0]))
        (tensor([3.]), tensor([0.]))

    Source: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803, equations 7 and 8.
    """
    if inverse:
        return undone_affine(x, raw, shift, bound, x.new_full((), bound))
    # b tanh(u) is 2 b sigmoid(2 u) - b, in a third of the time.
    s = torch.rsub(torch.sigmoid(_twice(raw, bound)), -bound, alpha=-2 * bound)
    return torch.addcmul(shift, x, s.exp()), s


def done_affine(x: Tensor, raw: Tensor, shift: Tensor, bound: float, bottom: Tensor) -> tuple[Tensor, Tensor]:
    """Return `bounded_affine`; `bottom` is -bound as a tensor (), which costs less than a Python number when used often."""
    s = torch.add(bottom, torch.sigmoid(_twice(raw, bound)), alpha=2 * bound)
    return torch.addcmul(shift, x, s.exp()), s


def undone_affine(x: Tensor, raw: Tensor, shift: Tensor, bound: float, top: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the inverse of `bounded_affine`, with y written into `out` if given.

    `top` is the bound as a tensor (), which costs less than a Python number when used often.
    """
    s = torch.sub(top, torch.sigmoid(_twice(raw, bound)), alpha=2 * bound)
    return torch.mul(x - shift, s.exp(), out=out), s


def _twice(raw: Tensor, bound: float) -> Tensor:
    """Return 2 raw / bound."""
    return raw if bound == 2 else raw * (2 / bound)
