"""How a law is checked, with its name in the message."""

from typing import Any

import torch
from torch import Tensor


def agree(law: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Demand equal numbers.

    Raises:
        AssertionError: they differ by more than the tolerance, or in shape; the law is named.
    """
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, check_dtype=False, msg=lambda text: f"{law}: {text}")


def demand(law: str, holds: bool, found: Any) -> None:
    """Demand that something holds.

    Raises:
        AssertionError: it does not; the law and what was found are named.
    """
    if not holds:
        raise AssertionError(f"{law}: found {found}")


def log_abs_det_by_autograd(function: Any, x: Tensor) -> Tensor:
    """Return log|det| (n,) of the Jacobian of each row; rows are independent, so that a sum over them keeps their derivatives apart."""
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x).flatten(1).sum(0), x)  # (d, n, *shape)
    return torch.linalg.slogdet(jacobian.flatten(2).transpose(0, 1)).logabsdet


def non_contiguous(x: Tensor) -> Tensor:
    """Return equal values with strides that no fresh tensor has."""
    return torch.stack((x, torch.full_like(x, 7)), dim=-1)[..., 0]
