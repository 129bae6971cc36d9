"""What a sampler yields after each step."""

from typing import Any, NamedTuple

from torch import Tensor


class State(NamedTuple):
    """Where a sampler is after a step.

    Attributes:
        t: the time; that of each sample (n,) in a method with adaptive steps.
        x: the state at t (n, *shape).
        prediction: what the denoiser predicted at the step's start; None in a method with adaptive steps.
    """

    t: float | Tensor
    x: Tensor
    prediction: Any
