"""A grid of times that are given one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pushforward._checks import shown
from pushforward.errors import UserError
from pushforward.registry import export
from pushforward.samplers.visiting import SLACK, Visiting


@export("samplers.Times", example=lambda: Times((1.0, 0.7, 0.4, 0.1)))
@dataclass(frozen=True)
class Times(Visiting):
    """Steps that start at the given times; the last one goes to the end: t_min, or the data on a discrete path.

    A sampler with this grid has as many steps as there are times. In `encode`, from the data to the noise, the times are passed in reverse;
    in a part of the interval, those that lie in it. The timestep k of diffusers is the time (k + 1) / T of a discrete path of T knots;
    there, as in diffusers, the first time may be below 1, and the noise is used as x at it.

    Args:
        times: where the steps start, from noise to data: falling, each above 0 and at most 1.

    Raises:
        UserError: no times, one that is no number or not from 0 to 1, or one that is not below the one before; when used, a number of steps
            other than that of the times, a time outside the path's interval, or steps that start before the first time.

    Example:
        >>> from pushforward.paths import Linear
        >>> Times((1.0, 0.7, 0.2))(1.0, 0.0, 3, Linear())
        [1.0, 0.7, 0.2, 0.0]
    """

    times: Sequence[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.times:
            raise UserError("times is empty, but it lists the times at which steps start, such as (1.0, 0.7, 0.4, 0.1).")
        for t in self.times:
            if not 0 < t <= 1:
                raise UserError(
                    f"times has {shown(t)}, but steps start at times above 0 and at most 1; leave out the end, to which the last step goes."
                )
        for before, t in pairwise(self.times):
            if not t < before - SLACK:
                raise UserError(f"times has {t:g} after {before:g}, but times fall, from noise at t = 1 to data at t = 0; sort them.")
        object.__setattr__(self, "times", tuple(float(t) for t in self.times))

    def visited(self, path: Any, steps: int, spare: int = 0) -> list[float]:
        """Return the times.

        Raises:
            UserError: there are not `steps` of them, or one lies outside the path's interval.
        """
        if steps != len(self.times):
            raise UserError(
                f"steps is {steps}, but the grid lists {len(self.times)} times, one for each step; use steps={len(self.times)}."
            )
        low, high = (0.0, 1.0) if path is None else path.interval
        for t in self.times:
            if not low - SLACK <= t <= high + SLACK:
                raise UserError(f"times has {t:g}, but {path} is defined from {low:g} to {high:g}; leave it out.")
        return list(self.times)

    def __call__(self, t_start: float, t_end: float, steps: int, path: Any = None) -> list[float]:
        high = max(t_start, t_end)
        if self.visited(path, steps)[0] < high - SLACK:
            raise UserError(f"the first time is {self.times[0]:g}, but the steps begin at t = {high:g}; put {high:g} first.")
        return super().__call__(t_start, t_end, steps, path)
