"""The activations that networks take by name."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward.errors import UserError

Activation = Literal["silu", "tanh", "relu", "elu", "softplus"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": F.elu,
    "softplus": F.softplus,
}


def activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation of this name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"activation is {name!r}, but it is one of {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
