"""The midpoint method."""

from dataclasses import dataclass
from typing import ClassVar

from pushforward.methods import MIDPOINT
from pushforward.registry import export
from pushforward.samplers.sampler import FixedStepSampler
from pushforward.tableaux import Tableau


def _example(steps: int = 20) -> "Midpoint":
    return Midpoint(steps)


@export("samplers.Midpoint", example=_example, order=2)
@dataclass(frozen=True)
class Midpoint(FixedStepSampler):
    """Second order, two evaluations per step: x + h v(x + h v / 2, t + h / 2).

    Args:
        steps: number of steps (two evaluations each).
        grid: where they lie; equal steps in t by default.

    Source: Hairer, Nørsett and Wanner, section II.1 (Runge 1895); it never evaluates at t_end.
    """

    tableau: ClassVar[Tableau] = MIDPOINT
