"""Fair times on a shared machine: contenders are interleaved, the minimum over many turns counts, and everything is repeated five times.

The order changes in each turn, since a contender that follows a similar one finds its kernels in the cache.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

RUNS = 5


@dataclass(frozen=True)
class Times:
    """Seconds of each contender in each of the interleaved runs."""

    runs: dict[str, list[float]]

    def best(self, name: str) -> float:
        return min(self.runs[name])

    def ratio(self, name: str, others: list[str]) -> tuple[float, float, float]:
        """Return the speed-up of `name` over the fastest of the others: median, minimum and maximum over the runs."""
        ratios = [min(self.runs[other][k] for other in others) / mine for k, mine in enumerate(self.runs[name])]
        return statistics.median(ratios), min(ratios), max(ratios)


def race(contenders: dict[str, Callable[[], object]], turns: int) -> Times:
    """Time the contenders interleaved, with `turns` turns per run; the first call of each is not counted."""
    for contender in contenders.values():
        contender()
    runs: dict[str, list[float]] = {name: [] for name in contenders}
    shuffle = random.Random(0)
    for _ in range(RUNS):
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(turns):
            for name in shuffle.sample(list(contenders), len(contenders)):
                start = time.perf_counter()
                contenders[name]()
                best[name] = min(best[name], time.perf_counter() - start)
        for name, seconds in best.items():
            runs[name].append(seconds)
    return Times(runs)
