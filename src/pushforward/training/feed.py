"""The batches of a run on the model's device, and the rows that data-dependent parts are initialised from."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pushforward._memory import check_room
from pushforward.training.buckets import evenly, of_one_shape, order_of, shards_of
from pushforward.training.order import Batch, as_batch, batches, fetched
from pushforward.training.processes import Processes
from pushforward.training.settings import Settings
from pushforward.training.signals import Signals

INDEX = 40  # bytes that the number of a row takes, as an object in a list
REMEDY = "give a smaller batch_size"


class Feed:
    """Training data in the order of a run.

    Args:
        data: map-style training data.
        settings: the training settings.
        processes: what shares the batches.
        device: where batches are placed.
        dtype: the model's dtype.

    Raises:
        OutOfMemoryError: main memory is too small for the rows of a batch.
    """

    def __init__(self, data: Any, settings: Settings, processes: Processes, device: torch.device, dtype: torch.dtype) -> None:
        self.data, self.settings, self.processes, self.device, self.dtype = data, settings, processes, device, dtype
        rows = settings.batch_size // processes.size
        check_room(f"a batch of {rows:,} examples", rows * (INDEX + math.prod(getattr(data, "shape", ())) * dtype.itemsize), REMEDY)

    def start(self, step: int) -> Iterator[Any]:
        """Return the batches from a step to the last, not yet placed."""
        s, among = self.settings, self.processes
        order = order_of(self.data, s.batch_size, s.seed, step, s.steps, among.rank, among.size)
        return iter(batches(self.data, order, s.workers, pinned=self.device.type == "cuda", timeout=s.timeout))

    def next(self, loader: Iterator[Any], signals: Signals) -> Batch | None:
        """Return the next batch, placed, or None if a signal comes before it (in one process; several would lose step)."""
        found: list[Batch] = []
        if self.processes.size > 1:
            found.append(next(loader))
        elif not signals.run(lambda: found.append(next(loader))):
            return None
        return self.placed(found[0])

    def placed(self, batch: Batch) -> Batch:
        """Return a batch on the model's device."""
        x, cond, noise = batch
        x = x.to(self.device, self.dtype, non_blocking=True)
        cond = None if cond is None else self._condition(cond, non_blocking=True)
        return x, cond, noise if noise is None else noise.to(self.device, self.dtype, non_blocking=True)

    def rows(self, most: int) -> tuple[Tensor, Any]:
        """Return up to `most` rows of one shape with their conditions, spread evenly over the set; of a set in shards the first ones."""
        usual = of_one_shape(self.data)
        x, cond, _ = as_batch(fetched(self.data, evenly(usual, most) if shards_of(self.data) is None else usual[:most]))
        return x.to(self.device, self.dtype), None if cond is None else self._condition(cond)

    def _condition(self, cond: Any, **options: Any) -> Any:
        """Return a condition on the model's device, vectors and images in the model's dtype."""
        real = isinstance(cond, Tensor) and cond.is_floating_point()
        return cond.to(self.device, self.dtype, **options) if real else cond.to(self.device, **options)
