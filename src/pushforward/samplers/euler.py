"""Euler's method: straight steps along the velocity."""

from dataclasses import dataclass
from typing import ClassVar

from pushforward.methods import EULER
from pushforward.registry import export
from pushforward.samplers.sampler import FixedStepSampler
from pushforward.tableaux import Tableau


def _example(steps: int = 20) -> "Euler":
    return Euler(steps)


@export("samplers.Euler", example=_example, order=1)
@dataclass(frozen=True)
class Euler(FixedStepSampler):
    """First order, one evaluation per step: x + h v(x, t).

    Args:
        steps: number of steps.
        grid: where they lie; equal steps in t by default.

    Source: Euler 1768; on a rectified flow few steps are enough, as its trajectories are nearly straight (2209.03003).
    """

    tableau: ClassVar[Tableau] = EULER
