"""Random orders in which the examples of a shard are near each other, so that few shards are open and each is read once."""

import torch
from torch import Tensor


def shuffled(examples: int, generator: torch.Generator, shards: Tensor | None = None, window: int = 1) -> Tensor:
    """Return a random order (N,) of examples, in which those of a shard are near each other.

    The shards get a random order. An example of the p-th of P shards is placed at p + W u modulo P, with u uniform in [0, 1): at any time,
    examples of W + 1 shards at most are mixed, and each shard is read once. If W is P or more, all orders are equally likely.

    Args:
        examples: N.
        generator: random numbers.
        shards: the shard (N,) of each example; None is a uniformly random permutation.
        window: W.
    """
    if shards is None:
        return torch.randperm(examples, generator=generator)
    numbers, inverse = shards.unique(return_inverse=True)
    count = len(numbers)
    places = torch.randperm(count, generator=generator)[inverse].double()
    places += min(window, count) * torch.rand(examples, generator=generator, dtype=torch.float64)
    return places.remainder(count).argsort(stable=True)


def by_shard(rows: Tensor, shard_of: Tensor, seed: int, window: int) -> Tensor:
    """Return rows of a sharded source (n,) in such an order, in which sets are read from the first example to the last."""
    return rows[shuffled(len(rows), torch.Generator().manual_seed(seed), shard_of[rows], window)]
