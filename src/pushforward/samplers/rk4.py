"""The classical Runge-Kutta method."""

from dataclasses import dataclass
from typing import ClassVar

from pushforward import methods
from pushforward.registry import export
from pushforward.samplers.sampler import FixedStepSampler
from pushforward.tableaux import Tableau


def _example(steps: int = 20) -> "RK4":
    return RK4(steps)


@export("samplers.RK4", example=_example, order=4)
@dataclass(frozen=True)
class RK4(FixedStepSampler):
    """Fourth order, four evaluations per step.

    Args:
        steps: number of steps (four evaluations each).
        grid: where they lie; equal steps in t by default.

    Source: Hairer, Nørsett and Wanner, section II.1 (Kutta 1901).
    """

    tableau: ClassVar[Tableau] = methods.RK4
