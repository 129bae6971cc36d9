"""The base of grids that list the times at which a sampler evaluates the network: `Knots` and `Times`."""

from typing import Any

from torch import Tensor

from pushforward.errors import missing
from pushforward.samplers.grids import Grid

SLACK = 1e-9  # times closer than this are the same


class Visiting(Grid):
    """A grid whose N steps start at N times that do not depend on the ends; to add one, implement `visited`."""

    def visited(self, path: Any, steps: int, spare: int = 0) -> list[float]:
        """Return the times at which `steps` steps start, from noise to data."""
        raise missing(self, "visited", "the times at which the steps start, from noise to data")

    def places(self, u: Tensor, t_start: float, t_end: float, path: Any) -> Tensor:
        raise NotImplementedError("its times lie where they lie: see `visited`.")

    def __call__(self, t_start: float, t_end: float, steps: int, path: Any = None) -> list[float]:
        """Return t_start, the times that lie in between, and t_end."""
        low, high = sorted((t_start, t_end))
        between = [t for t in self.visited(path, steps) if low + SLACK < t < high - SLACK]
        return [t_start, *(between if t_start > t_end else reversed(between)), t_end]

    def to_data(self, t_start: float, steps: int, path: Any, spare: int = 0) -> list[float]:
        visited = self.visited(path, steps, spare)
        if t_start < path.interval[1] - SLACK:  # from inside the interval
            visited = [t_start, *(t for t in visited if t < t_start - SLACK)]
        return [*visited, 0.0]

    def last_time(self, path: Any, steps: int, t_min: float) -> float:
        return t_min if path is None or path.knots is None else max(t_min, self.visited(path, steps)[-1])
