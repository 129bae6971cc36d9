"""The rows of a computation that one of several processes computes: its part of each chunk, with the random numbers of the entire chunk."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward import _random


@dataclass(frozen=True)
class Share:
    """One of `size` equal parts of the rows of each chunk; of one part, all rows.

    Args:
        rank: the part's number, from 0.
        size: number of parts.
    """

    rank: int = 0
    size: int = 1

    def of(self, rows: slice) -> slice:
        """Return the rows of a chunk that belong to this part; the first parts are the larger ones."""
        n = rows.stop - rows.start
        low, high = (-(-n * rank // self.size) for rank in (self.rank, self.rank + 1))
        return slice(rows.start + low, rows.start + high)

    @contextlib.contextmanager
    def part(self, rows: slice, generator: _random.Generators) -> Iterator[tuple[slice, _random.Generators]]:
        """Yield the rows of this part of a chunk and a generator that draws for the entire chunk and keeps those rows.

        Afterwards the chunk's generator is in the state in which the entire chunk leaves it.
        """
        own = self.of(rows)
        if isinstance(generator, list | tuple) and len(generator) == 1:
            generator = generator[0]
        if self.size == 1 or not isinstance(generator, torch.Generator):
            yield own, generator
            return
        first, block = rows.start, rows.stop - rows.start
        if isinstance(generator, _random.Piece):  # the chunk is itself a part of a block
            first, block = rows.start - generator.rows.start, generator.block
        piece = _random.Piece.of(generator, block, slice(own.start - first, own.stop - first))
        yield own, piece
        generator.set_state(piece.get_state())

    def rows(self, n: int, size: int | None) -> Tensor:
        """Return the numbers of the rows of this part, in the order in which they are computed in chunks of `size` of n rows."""
        return torch.cat([torch.arange(n)[self.of(rows)] for rows, _ in _random.chunks(n, size)])
