"""Tsitouras 5(4): like Dormand-Prince 5(4), with newer coefficients."""

from dataclasses import dataclass
from typing import ClassVar

from pushforward.methods import TSIT5
from pushforward.registry import export
from pushforward.samplers.sampler import AdaptiveSampler
from pushforward.tableaux import Tableau


@export("samplers.Tsit5", example=lambda: Tsit5())
@dataclass(frozen=True)
class Tsit5(AdaptiveSampler):
    """Fifth order with error control, six evaluations per step, with smaller error constants than Dopri5.

    Args:
        rtol: tolerance relative to the state.
        atol: absolute tolerance, in units of the model's (preprocessed) data.
        max_steps: maximum number of attempted steps.
        adjoint: whether gradients come from the adjoint ODE, in memory that does not grow with the steps (see `ode.odeint`).

    Source: Tsitouras 2011.
    """

    tableau: ClassVar[Tableau] = TSIT5
