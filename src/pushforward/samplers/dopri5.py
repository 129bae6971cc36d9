"""Dormand-Prince 5(4): adaptive steps, for each sample separately."""

from dataclasses import dataclass
from typing import ClassVar

from pushforward.methods import DOPRI5
from pushforward.registry import export
from pushforward.samplers.sampler import AdaptiveSampler
from pushforward.tableaux import Tableau


@export("samplers.Dopri5", example=lambda: Dopri5())
@dataclass(frozen=True)
class Dopri5(AdaptiveSampler):
    """Fifth order with error control; each sample has its own steps, and a finished one costs nothing more.

    Along a path whose velocity varies on the scale of t itself (`path.log`), steps are taken in log(t).

    Args:
        rtol: tolerance relative to the state.
        atol: absolute tolerance, in units of the model's (preprocessed) data.
        max_steps: maximum number of attempted steps.
        adjoint: whether gradients come from the adjoint ODE, in memory that does not grow with the steps (see `ode.odeint`).

    Source: Dormand and Prince 1980; step control as in Hairer, Nørsett and Wanner, section II.4.
    """

    tableau: ClassVar[Tableau] = DOPRI5
