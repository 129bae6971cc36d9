"""The divergence of a vector field, sum_i d f_i / d x_i: exact for any event shape, or estimated from random directions."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pushforward.errors import ShapeError
from pushforward.registry import export

Field = Callable[[Tensor], Tensor]


def _example() -> tuple:
    return (lambda x: x.sin() * x.flip(1)), torch.randn(3, 4, dtype=torch.float64)


@export("functional.exact_divergence", example=_example)
def exact_divergence(
    field: Field, x: Float[Tensor, "n ..."], chunk: int | None = None
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]]:
    """Return a field's value and exact divergence, all directions in one vectorised forward-mode call.

        div f(x) = sum_i d f_i / d x_i

    Args:
        field: maps (n, *shape) to (n, *shape), each row on its own.
        x: where to evaluate (n, *shape).
        chunk: how many of the d directions at once; None means all, which holds d times the field's activations.

    Returns:
        The value (n, *shape) and the divergence (n,). Both can be differentiated.

    Raises:
        ShapeError: the field's value has another shape than x.

    Example:
        >>> value, divergence = exact_divergence(lambda x: 3 * x, torch.zeros(2, 1, 4, 4))
        >>> divergence
        tensor([48., 48.])
    """
    n, d = x.shape[0], math.prod(x.shape[1:])
    if n == 0:
        return field(x), x.new_zeros(0)
    basis = torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *x.shape[1:]).expand(d, *x.shape)

    def directional(direction: Tensor) -> tuple[Tensor, Tensor]:
        value, derivative = torch.func.jvp(field, (x,), (direction,))
        if value.shape != x.shape:
            raise ShapeError(f"the field maps {tuple(x.shape)} to {tuple(value.shape)}, but a divergence needs equal shapes.")
        return value, derivative

    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward-mode derivative
        value, derivatives = torch.func.vmap(directional, out_dims=(None, 0), chunk_size=chunk)(basis)
    return value, derivatives.reshape(d, n, d).diagonal(dim1=0, dim2=2).sum(-1)


def _hutchinson_example() -> tuple:
    field, x = _example()
    return field, x, torch.randn(2, 3, 4, dtype=torch.float64).sign()


@export("functional.hutchinson_divergence", example=_hutchinson_example)
def hutchinson_divergence(
    field: Field, x: Float[Tensor, "n ..."], probes: Float[Tensor, "k n ..."]
) -> tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]]:
    """Return a field's value and an unbiased estimate of its divergence from k random directions.

        E[e' (df/dx) e] = div f(x)  for E[e e'] = I

    Args:
        field: maps (n, *shape) to (n, *shape), each row on its own.
        x: where to evaluate (n, *shape).
        probes: the directions e (k, n, *shape), such as random signs; keep them fixed along one trajectory.

    Returns:
        The value (n, *shape) and the estimate (n,), the mean over the k directions. Both can be differentiated.

    Example:
        >>> signs = torch.randn(1, 2, 5).sign()
        >>> hutchinson_divergence(lambda x: 3 * x, torch.zeros(2, 5), signs)[1]
        tensor([15., 15.])

    Source: Grathwohl et al., FFJORD, 2018, arXiv 1810.01367, eq. 7.
    """

    def along(probe: Tensor) -> tuple[Tensor, Tensor]:
        value, derivative = torch.func.jvp(field, (x,), (probe,))
        return value, (derivative * probe).flatten(1).sum(1)

    with sdpa_kernel(SDPBackend.MATH):
        if probes.shape[0] == 1:
            return along(probes[0])
        value, estimates = torch.func.vmap(along, out_dims=(None, 0))(probes)
    return value, estimates.mean(0)
