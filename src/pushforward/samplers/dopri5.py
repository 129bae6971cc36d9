"""Dormand-Prince 5(4): steps as long as the tolerance allows, for each sample its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pushforward import _random
from pushforward.errors import UserError
from pushforward.ode import dopri5
from pushforward.registry import export
from pushforward.samplers.sampler import Sampler, bound, check_times


@export("samplers.Dopri5", example=lambda: Dopri5())
@dataclass(frozen=True)
class Dopri5(Sampler):
    """Fifth order with error control; each sample has its own steps, and one that has arrived costs nothing more.

    Along a path whose velocity varies on the scale of t itself (`path.log`) steps are taken in log(t).

    Args:
        rtol: tolerance relative to the state.
        atol: absolute tolerance, in units of the model's (preprocessed) data.
        max_steps: most steps that may be tried.
        adjoint: whether gradients come from the adjoint ODE, in memory that does not grow with the steps (see `ode.odeint`).

    Source: Dormand and Prince 1980; step control as in Hairer, Nørsett and Wanner, section II.4.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000
    adjoint: bool = False

    solves_ode: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rtol < 0 or self.atol < 0 or self.rtol + self.atol == 0:
            raise UserError(f"rtol is {self.rtol} and atol {self.atol}, but both must be at least 0 and one positive; try 1e-5.")

    def __call__(
        self, denoiser: Callable[[Tensor, Tensor], Any], x: Tensor, t_start: float, t_end: float, generator: _random.Generators = None
    ) -> Tensor:
        check_times(denoiser, t_start, t_end)
        options: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps, "adjoint": self.adjoint}
        options["log"] = getattr(getattr(denoiser, "path", None), "log", False) and min(t_start, t_end) > 0
        call, args = bound(denoiser)
        # A bare function may hold the whole batch's conditions: nobody leaves the batch then.
        return dopri5(call, x, t_start, t_end, args, leave=hasattr(denoiser, "bind"), **options)
