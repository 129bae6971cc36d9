"""Telemetry of a run: seconds per phase, memory, and losses as a function of t."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pushforward.training.processes import Processes

BINS = 10  # of the histogram over t in [0, 1]


class Phases:
    """Seconds spent in each named phase since the last call of `take`.

    On an accelerator, whose work is queued, a phase is timed by events in the queue, which are only read by `take`.

    Args:
        device: where the computation runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.queued = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.Event, torch.Event]] = []

    @contextmanager
    def __call__(self, name: str, *, host: bool = False) -> Iterator[None]:
        """Time a block; `host` marks work that always runs on the CPU, such as data loading."""
        if self.queued and not host:
            begin, end = torch.Event(enable_timing=True), torch.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
            return
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Return the seconds by phase, and reset."""
        for name, begin, end in self._events:
            end.synchronize()
            self.add(name, begin.elapsed_time(end) / 1000)
        taken = {name: round(seconds, 6) for name, seconds in self._seconds.items()}
        self._seconds, self._events = {}, []
        return taken


class LossOverTime:
    """Collect the training times of a path model with their losses: `add` is the model's `watch`."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, Tensor]] = []

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Keep times (n,) in [0, 1] and losses (n,); nothing is computed yet."""
        self._seen.append((t, losses))

    def take(self) -> Tensor:
        """Return (2, BINS) float64 on the CPU, the number of times in each bin and the sum of their losses, and reset."""
        sums = torch.zeros(2, BINS, dtype=torch.float64)
        if self._seen:
            t, losses = (torch.cat(part).detach().to("cpu", torch.float64) for part in zip(*self._seen, strict=True))
            bins = (t * BINS).long().clamp(0, BINS - 1)
            sums[0].index_add_(0, bins, torch.ones_like(losses))
            sums[1].index_add_(0, bins, losses.nan_to_num(0.0, 0.0, 0.0))
        self._seen = []
        return sums


def by_time(sums: Tensor) -> dict[str, list[Any]]:
    """Return the histogram of t and the mean loss in each of its bins (None where it is empty), as plain numbers."""
    if not float(sums[0].sum()):
        return {}
    means = [round(float(total / count), 6) if count else None for count, total in zip(*sums, strict=True)]
    return {"t_histogram": [int(count) for count in sums[0]], "loss_by_t": means}


def memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process in MB: device memory on CUDA, else resident memory."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / 1e6 if sys.platform == "darwin" else most / 1e3, 1)


def mean_losses(
    losses: Sequence[Tensor], norms: Sequence[float], over_time: LossOverTime, processes: Processes
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Return the mean loss and gradient norm of the steps taken, none if there were none, and the losses by time, over all processes."""
    taken = len(losses)
    own = torch.stack(list(losses)).double().sum().cpu() if losses else torch.zeros((), dtype=torch.float64)
    sums = processes.sum(torch.cat([own[None], over_time.take().flatten()]))
    means = {"loss": float(sums[0]) / (taken * processes.size), "gradient_norm": sum(norms) / taken} if taken else {}
    return means, by_time(sums[1:].reshape(2, -1))
