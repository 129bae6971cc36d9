"""What a network may predict at x_t = alpha_t data + sigma_t noise, and how to convert one prediction into another.

With D = alpha sigma' - alpha' sigma, the two equations x = alpha data + sigma noise and velocity = alpha' data + sigma' noise give

    data = (sigma' x - sigma velocity) / D,    noise = (alpha velocity - alpha' x) / D,    score = -noise / sigma,

so that every prediction is a x + b value with coefficients that depend only on t. On a variance preserving path, alpha² + sigma² = 1,
there is also v = alpha noise - sigma data (Salimans and Ho, 2202.00512), which determines both at every t:

    data = alpha x - sigma v,    noise = sigma x + alpha v.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pushforward.registry import export

Kind = Literal["velocity", "noise", "data", "score", "v"]
KINDS: tuple[Kind, ...] = ("velocity", "noise", "data", "score")  # on every path


def _example() -> tuple:
    t = torch.tensor([0.25, 0.5], dtype=torch.float64)
    value, x = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    return value, x, 1 - t, t, -torch.ones_like(t), torch.ones_like(t), "velocity", "data"


@export("functional.prediction_coefficients")
def prediction_coefficients(
    source: Kind, target: Kind, alpha: Tensor, sigma: Tensor, alpha_dot: Tensor, sigma_dot: Tensor
) -> tuple[Tensor | float, Tensor | float]:
    """Return (a, b) such that target = a x + b source.

    Args:
        source: what is given: "velocity", "noise", "data" or "score", or "v" where alpha² + sigma² = 1.
        target: what to convert to, one of the same.
        alpha: alpha_t (n,).
        sigma: sigma_t (n,).
        alpha_dot: d alpha / dt (n,).
        sigma_dot: d sigma / dt (n,).

    Returns:
        a and b, each (n,) or a float. Where sigma = 0, data does not determine the noise, and where alpha = 0, noise does not determine
        the data: the coefficients are infinite there, and a model's interval excludes such times.

    Raises:
        ValueError: source or target is none of these.

    Example:
        >>> t = torch.tensor([0.25])
        >>> prediction_coefficients("velocity", "data", 1 - t, t, -torch.ones(1), torch.ones(1))  # data = x - t v
        (tensor([1.]), tensor([-0.2500]))
    """
    if source == target:
        return 0.0, 1.0
    data: tuple[Tensor | float, Tensor | float]
    noise: tuple[Tensor | float, Tensor | float]
    if source == "velocity":
        determinant = alpha * sigma_dot - alpha_dot * sigma
        data = sigma_dot / determinant, -sigma / determinant
        noise = -alpha_dot / determinant, alpha / determinant
    elif source == "noise":
        data, noise = (1 / alpha, -sigma / alpha), (0.0, 1.0)
    elif source == "data":
        data, noise = (0.0, 1.0), (1 / sigma, -alpha / sigma)
    elif source == "score":
        data, noise = (1 / alpha, sigma * sigma / alpha), (0.0, -sigma)
    elif source == "v":
        data, noise = (alpha, -sigma), (sigma, alpha)
    else:
        raise ValueError(f"source is {source!r}, but a prediction is one of {', '.join((*KINDS, 'v'))}.")
    if target == "velocity":
        return alpha_dot * data[0] + sigma_dot * noise[0], alpha_dot * data[1] + sigma_dot * noise[1]
    if target == "data":
        return data
    if target == "noise":
        return noise
    if target == "score":
        return -noise[0] / sigma, -noise[1] / sigma
    if target == "v":
        return alpha * noise[0] - sigma * data[0], alpha * noise[1] - sigma * data[1]
    raise ValueError(f"target is {target!r}, but a prediction is one of {', '.join((*KINDS, 'v'))}.")


@export("functional.convert_prediction", example=_example)
def convert_prediction(
    value: Float[Tensor, "n ..."],
    x: Float[Tensor, "n ..."],
    alpha: Float[Tensor, " n"],
    sigma: Float[Tensor, " n"],
    alpha_dot: Float[Tensor, " n"],
    sigma_dot: Float[Tensor, " n"],
    source: Kind,
    target: Kind,
) -> Float[Tensor, "n ..."]:
    """Return `target` from a value that is the `source` prediction at x = alpha data + sigma noise.

    Args:
        value: the given prediction (n, *shape).
        x: the noisy point x_t (n, *shape).
        alpha: alpha_t (n,).
        sigma: sigma_t (n,).
        alpha_dot: d alpha / dt (n,).
        sigma_dot: d sigma / dt (n,).
        source: what `value` is: "velocity", "noise", "data" or "score", or "v" where alpha² + sigma² = 1.
        target: what is wanted, one of the same.

    Returns:
        The target prediction (n, *shape), in x's dtype.

    Raises:
        ValueError: source or target is none of these.

    Example:
        >>> t, x, v = torch.tensor([0.25]), torch.tensor([[1.0]]), torch.tensor([[2.0]])
        >>> convert_prediction(v, x, 1 - t, t, -torch.ones(1), torch.ones(1), "velocity", "noise")  # x + (1 - t) v
        tensor([[2.5000]])
    """
    a, b = prediction_coefficients(source, target, alpha, sigma, alpha_dot, sigma_dot)
    return combine(a, x, b, value)


def combine(a: Tensor | float, x: Tensor, b: Tensor | float, value: Tensor) -> Tensor:
    """Return a x + b value, where a and b are floats or one number per row."""
    if isinstance(a, float) and a == 0:
        return value if isinstance(b, float) and b == 1 else value * per_row(b, value)
    return torch.addcmul(x * per_row(a, x), value, per_row(b, x))


def per_row(coefficient: Tensor | float, x: Tensor) -> Tensor:
    """Return a coefficient (n,) with shape (n, 1, ..., 1) and x's dtype, so that it multiplies the rows of x."""
    coefficient = torch.as_tensor(coefficient, dtype=x.dtype, device=x.device)
    return coefficient.view(-1, *(1,) * (x.ndim - 1)) if coefficient.ndim else coefficient
