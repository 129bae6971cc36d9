"""Dormand-Prince 8(7): long steps for tight tolerances."""

from dataclasses import dataclass
from typing import ClassVar

from pushforward.methods import DOPRI8
from pushforward.registry import export
from pushforward.samplers.sampler import AdaptiveSampler
from pushforward.tableaux import Tableau


@export("samplers.Dopri8", example=lambda: Dopri8())
@dataclass(frozen=True)
class Dopri8(AdaptiveSampler):
    """Eighth order with error control, thirteen evaluations per step: for tight tolerances, in float64.

    Args:
        rtol: tolerance relative to the state.
        atol: absolute tolerance, in units of the model's (preprocessed) data.
        max_steps: maximum number of attempted steps.
        adjoint: whether gradients come from the adjoint ODE, in memory that does not grow with the steps (see `ode.odeint`).

    Source: Prince and Dormand 1981, RK8(7)13M.
    """

    tableau: ClassVar[Tableau] = DOPRI8
