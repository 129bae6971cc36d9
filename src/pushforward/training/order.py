"""Data order and random numbers of a step: pure functions of (seed, step, block), so that resuming needs no history."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from pushforward.data.rows import Rows
from pushforward.data.shuffled import shuffled
from pushforward.training.seeds import seeds_of

Batch = tuple[Tensor, Any, Tensor | None]  # x, condition, noise


def seed_of(*place: int) -> int:
    """Return a 63-bit seed hashed from integers: neighbouring places get unrelated seeds."""
    # An array of uint32 words is hashed directly, if it can hold all numbers, which avoids converting them one by one.
    words = numpy.array(place, numpy.uint32) if max(place) < 2**32 else place
    return int(numpy.random.SeedSequence(words).generate_state(1, numpy.uint64)[0]) >> 1


def generator_at(*place: int) -> torch.Generator:
    """Return a CPU generator seeded by `place`; CPU draws are the same for every device."""
    return torch.Generator().manual_seed(seed_of(*place))


@dataclass(frozen=True)
class Order(Sampler[list[int]]):
    """The batch indices of each step: shuffled epochs in sequence, cut into batches that may span two epochs.

    Args:
        examples: size of the data set.
        batch_size: samples per step.
        seed: seed of the shuffles.
        start: the first step to yield.
        stop: the step before which to stop.
        rank: index of the share of each batch to yield, from 0 to size - 1.
        size: the number of shares; it divides `batch_size`.
        shards: the shard (N,) that holds each example, of a set that is read shard by shard: see `shuffled`.
        window: how many shards are mixed.
    """

    examples: int
    batch_size: int
    seed: int
    start: int
    stop: int
    rank: int = 0
    size: int = 1
    shards: Tensor | None = field(default=None, kw_only=True)
    window: int = field(default=1, kw_only=True)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, drawn = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.start, self.stop):
            chosen: list[int] = []
            place = step * self.batch_size
            while len(chosen) < self.batch_size:
                if place // self.examples != epoch:
                    epoch = place // self.examples
                    drawn = shuffled(self.examples, generator_at(self.seed, 0, epoch), self.shards, self.window)
                begin = place % self.examples
                part = drawn[begin : begin + self.batch_size - len(chosen)].tolist()
                chosen += part
                place += len(part)
            share = self.batch_size // self.size
            yield chosen[self.rank * share : (self.rank + 1) * share]


class BlockGenerators:
    """The generators of micro-blocks: block i of a step draws from (seed, 1, step, i), on any process.

    Args:
        seed: seed of the run.
        blocks: indices of the blocks of each step.
    """

    AHEAD = 64  # steps whose seeds are computed together

    def __init__(self, seed: int, blocks: Sequence[int]) -> None:
        self.seed, self.blocks = seed, blocks
        self.first, self.seeds = 0, numpy.empty((0, len(blocks)), numpy.uint64)
        self.generators = [torch.Generator() for _ in blocks]

    def at(self, step: int) -> list[torch.Generator]:
        """Return the generators of a step's blocks, valid until the next step is requested."""
        if max(self.seed, step + self.AHEAD) >= 2**32:
            return [generator_at(self.seed, 1, step, block) for block in self.blocks]
        if not self.first <= step < self.first + len(self.seeds):
            steps, blocks = numpy.meshgrid(numpy.arange(step, step + self.AHEAD), self.blocks, indexing="ij")
            places = numpy.stack([numpy.full(steps.size, self.seed), numpy.ones(steps.size, int), steps.ravel(), blocks.ravel()], axis=1)
            self.first, self.seeds = step, seeds_of(places).reshape(steps.shape)
        seeds = self.seeds[step - self.first].tolist()
        return [one.manual_seed(seed) for one, seed in zip(self.generators, seeds, strict=True)]


def batches(
    data: Any, order: Order, workers: int = 0, *, pinned: bool = False, timeout: float = 0
) -> Iterable[tuple[Tensor, Any, Tensor | None]]:
    """Return the batches (x, cond, noise) in this order; noise is None except for sets of pairs.

    Args:
        data: a map-style set.
        order: whose indices to load.
        workers: worker processes that prefetch; 0 loads on demand.
        pinned: whether batches are in pinned memory, for faster copies to a GPU.
        timeout: seconds after which an unresponsive worker raises an error.
    """
    if not (workers or pinned):  # with nothing to do ahead, a DataLoader takes longer than small batches themselves
        return (as_batch(fetched(data, chosen)) for chosen in order)
    own = generator_at(order.seed, 4)  # the loader's draw of a seed for its workers is not to touch the global generator
    options: dict[str, Any] = {}
    if workers:
        options = {"num_workers": workers, "timeout": timeout}
        if order.size > 1:
            # A process with gloo or NCCL threads must not be forked: a lock held by a thread stays locked in the child.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            options["multiprocessing_context"] = context
    return DataLoader(data, batch_sampler=order, collate_fn=as_batch, pin_memory=pinned, generator=own, **options)


def fetched(data: Any, chosen: Sequence[int]) -> Any:
    """Return the examples as a batch, if the data set can make one itself, or as a list of rows."""
    return data.__getitems__(chosen) if hasattr(data, "__getitems__") else [data[index] for index in chosen]


def as_batch(rows: Any) -> Batch:
    """Return (x, cond, noise): a batch from the data set, or one collated from rows (x, cond, noise), (x, cond), (x,) or x.

    Missing entries are None.
    """
    if isinstance(rows, Rows):
        rows = rows.batch
    if isinstance(rows, tuple):
        x, cond, *noise = rows
        return x, cond, noise[0] if noise else None
    if not isinstance(rows[0], tuple | list):
        return default_collate(list(rows)), None, None
    columns: list[Any] = [None if column[0] is None else default_collate(list(column)) for column in zip(*rows, strict=True)]
    return columns[0], columns[1] if len(columns) > 1 else None, columns[2] if len(columns) > 2 else None
