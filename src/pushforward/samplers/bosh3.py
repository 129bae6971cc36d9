"""Bogacki-Shampine 3(2): short, cheap steps."""

from dataclasses import dataclass
from typing import ClassVar

from pushforward.methods import BOSH3
from pushforward.registry import export
from pushforward.samplers.sampler import AdaptiveSampler
from pushforward.tableaux import Tableau


@export("samplers.Bosh3", example=lambda: Bosh3())
@dataclass(frozen=True)
class Bosh3(AdaptiveSampler):
    """Third order with error control, three evaluations per step: for loose tolerances.

    Args:
        rtol: tolerance relative to the state.
        atol: absolute tolerance, in units of the model's (preprocessed) data.
        max_steps: maximum number of attempted steps.
        adjoint: whether gradients come from the adjoint ODE, in memory that does not grow with the steps (see `ode.odeint`).

    Source: Bogacki and Shampine 1989; MATLAB's ode23.
    """

    tableau: ClassVar[Tableau] = BOSH3
