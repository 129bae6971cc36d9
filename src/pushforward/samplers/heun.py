"""Heun's method: the trapezoidal rule with a predicted end point."""

from dataclasses import dataclass
from typing import ClassVar

from pushforward.methods import HEUN
from pushforward.registry import export
from pushforward.samplers.sampler import FixedStepSampler
from pushforward.tableaux import Tableau


def _example(steps: int = 20) -> "Heun":
    return Heun(steps)


@export("samplers.Heun", example=_example, order=2)
@dataclass(frozen=True)
class Heun(FixedStepSampler):
    """Second order, two evaluations per step: the mean of the slopes at the start and at the end of an Euler step.

    Args:
        steps: number of steps (two evaluations each).
        grid: where they lie; equal steps in t by default.

    Source: Karras et al. (EDM), 2206.00364, algorithm 1, here with the second evaluation in every step.
    """

    tableau: ClassVar[Tableau] = HEUN
