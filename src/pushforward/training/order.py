"""Which sample and which random numbers a step gets: pure functions of (seed, step, block), so that resuming needs no history."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate


def seed_of(*place: int) -> int:
    """Return a 63-bit seed mixed from whole numbers: neighbouring places get unrelated seeds."""
    return int(numpy.random.SeedSequence(place).generate_state(1, numpy.uint64)[0] >> 1)


def generator_at(*place: int) -> torch.Generator:
    """Return a CPU generator that starts where `place` says; CPU draws are the same on every device."""
    return torch.Generator().manual_seed(seed_of(*place))


@dataclass(frozen=True)
class Order(Sampler[list[int]]):
    """The indices of each step's batch: one shuffled epoch after another, cut into batches without regard to where epochs end.

    Args:
        examples: size of the data set.
        batch_size: samples a step.
        seed: what the shuffles depend on.
        start: the first step to yield.
        stop: the step before which to end.
    """

    examples: int
    batch_size: int
    seed: int
    start: int
    stop: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, shuffled = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.start, self.stop):
            chosen: list[int] = []
            place = step * self.batch_size
            while len(chosen) < self.batch_size:
                if place // self.examples != epoch:
                    epoch = place // self.examples
                    shuffled = torch.randperm(self.examples, generator=generator_at(self.seed, 0, epoch))
                begin = place % self.examples
                part = shuffled[begin : begin + self.batch_size - len(chosen)].tolist()
                chosen += part
                place += len(part)
            yield chosen


def block_generators(seed: int, step: int, blocks: int) -> list[torch.Generator]:
    """Return the generators of a step's micro-blocks: block i draws from (seed, 1, step, i), whoever computes it."""
    return [generator_at(seed, 1, step, block) for block in range(blocks)]


def batches(data: Any, order: Order) -> DataLoader[Any]:
    """Return a loader of (x, cond) batches in this order."""
    return DataLoader(data, batch_sampler=order, collate_fn=as_batch)


def as_batch(rows: Any) -> tuple[Tensor, Any]:
    """Return (x, cond): a batch as the data set made it, or one collated from rows (x, cond), (x,) or x."""
    if isinstance(rows, tuple):
        return rows
    if isinstance(rows[0], Tensor):
        return torch.stack(rows), None
    if len(rows[0]) == 1 or rows[0][1] is None:
        return torch.stack([row[0] for row in rows]), None
    x, cond = default_collate(rows)
    return x, cond
