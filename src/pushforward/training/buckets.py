"""Batches of data of several shapes: each has examples of one, and all examples are drawn equally often."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.data.bucketed import groups_of
from pushforward.training.order import Order, seed_of

GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 are as even as any sequence's
AT_ONCE = 1 << 20


@dataclass(frozen=True)
class GroupedOrder(Order):
    """An order of which each batch is of one group; within a group it is that of `Order`.

    The group of step s is the one in whose share of [0, 1) the fractional part of s times the golden ratio is, so that groups are taken in
    proportion to their sizes, equally in every process and from any step on.

    Args:
        groups: the group of each example (N,).
    """

    groups: Tensor = field(kw_only=True)

    def group_at(self, steps: numpy.ndarray, shares: numpy.ndarray) -> numpy.ndarray:
        """Return the place of each step's group among the groups, whose shares of the examples are given."""
        places = numpy.searchsorted(shares.cumsum(), (steps + 1) * GOLDEN % 1, side="right")
        return places.clip(max=len(shares) - 1)

    def __iter__(self) -> Iterator[list[int]]:
        numbers, sizes = self.groups.unique(return_counts=True)
        shares = (sizes / sizes.sum()).double().numpy()
        taken = numpy.zeros(len(numbers), numpy.int64)
        for first in range(0, self.start, AT_ONCE):
            steps = numpy.arange(first, min(first + AT_ONCE, self.start))
            taken += numpy.bincount(self.group_at(steps, shares), minlength=len(numbers))
        members = [(self.groups == number).nonzero().flatten() for number in numbers]
        orders = [
            iter(self._within(one, seed_of(self.seed, 5, place), int(before)))
            for place, (one, before) in enumerate(zip(members, taken, strict=True))
        ]
        for step in range(self.start, self.stop):
            place = int(self.group_at(numpy.array([step]), shares)[0])
            yield members[place][next(orders[place])].tolist()

    def _within(self, members: Tensor, seed: int, before: int) -> Order:
        """Return the order within a group, of which so many steps were taken before the first."""
        shards = None if self.shards is None else self.shards[members]
        return Order(len(members), self.batch_size, seed, before, self.stop + 1, self.rank, self.size, shards=shards, window=self.window)


def shards_of(data: Any) -> Tensor | None:
    """Return the number of the shard (N,) that holds each example of a set; None for one that is not read shard by shard."""
    shards = getattr(data, "shards", None)
    return shards if isinstance(shards, Tensor) else None  # a set of the user may have any attributes


def order_of(data: Any, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, size: int = 1) -> Order:
    """Return the order in which a data set is trained on: see `Order`."""
    groups, order = groups_of(data), (len(data), batch_size, seed, start, stop, rank, size)
    shards = shards_of(data)
    placed: dict[str, Any] = {} if shards is None else {"shards": shards, "window": getattr(data, "window", 1)}
    return Order(*order, **placed) if groups is None else GroupedOrder(*order, groups=groups, **placed)


def batches_in_turn(data: Any, size: int) -> list[Sequence[int]]:
    """Return the indices of all examples, cut into batches of at most `size` examples of one shape."""
    groups = groups_of(data)
    if groups is None:
        return [range(start, min(start + size, len(data))) for start in range(0, len(data), size)]
    return [part.tolist() for number in groups.unique() for part in (groups == number).nonzero().flatten().split(size)]


def of_one_shape(data: Any) -> Sequence[int]:
    """Return the indices of the examples of the most frequent shape: all, unless a set has several."""
    groups = groups_of(data)
    if groups is None:
        return range(len(data))
    found: list[int] = (groups == groups.mode().values).nonzero().flatten().tolist()
    return found


def evenly(indices: Sequence[int], most: int) -> list[int]:
    """Return up to `most` of some indices, spread evenly."""
    return [indices[place] for place in torch.linspace(0, len(indices) - 1, min(most, len(indices))).long().tolist()]
