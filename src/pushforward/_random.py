"""Random draws that can be independent of the batch: one generator, or a list of them, each for an equal number of rows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward._checks import shown, whole
from pushforward.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None


class Piece(torch.Generator):
    """A generator of a block of rows, for a chunk with some of them: it draws for the entire block and keeps the chunk's rows.

    So a chunk gets the same numbers as if the block were computed in one go.
    """

    block: int  # rows of the entire block
    rows: slice  # those of the chunk

    @classmethod
    def of(cls, generator: torch.Generator, block: int, rows: slice) -> "Piece":
        """Return a piece that starts from the current state of the block's generator."""
        piece = cls(generator.device)
        piece.set_state(generator.get_state())
        piece.block, piece.rows = block, rows
        return piece

    def seeded(self, seed: int) -> "Piece":
        """Return the same piece of a block with another seed."""
        piece = type(self)(self.device)
        piece.manual_seed(seed)
        piece.block, piece.rows = self.block, self.rows
        return piece


def checked(generator: Any, n: int | None = None) -> None:
    """Raise an error if this is not a valid generator, or a list that cannot be divided among n rows, before anything is computed.

    Raises:
        UserError: a wrong type, an empty list, the same generator twice, several devices, or a number of generators that does not divide n.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return
    allowed = "a torch.Generator, a list of them (one per sample), or None"
    if not isinstance(generator, list | tuple):
        hint = f"; use torch.Generator().manual_seed({generator})" if type(generator) is int and 0 <= generator < 2**63 else ""
        raise UserError(f"generator is {shown(generator)}, but it must be {allowed}{hint}.")
    for k, one in enumerate(generator):
        if not isinstance(one, torch.Generator):
            raise UserError(f"generator[{k}] is {shown(one)}, but generator must be {allowed}.")
    if n is not None:
        _share(generator, n)
    if len({id(one) for one in generator}) < len(generator):
        raise UserError("generator lists the same generator twice, so that its samples would depend on each other; give each its own.")
    devices = {one.device for one in generator}
    if len(devices) > 1:
        raise UserError(f"generator lists generators of {' and '.join(sorted(map(str, devices)))}, but they must share a device.")


def blocks(generator: Generators, n: int) -> Iterator[tuple[slice, torch.Generator | None]]:
    """Yield the rows of each generator, with it: all n rows for one generator (or None), n / k rows each for a list of k.

    Raises:
        UserError: n is not divisible by the number of generators.
    """
    if generator is None or isinstance(generator, torch.Generator):
        yield slice(0, n), generator
        return
    rows = _share(generator, n)
    for index, one in enumerate(generator):
        yield slice(index * rows, (index + 1) * rows), one


def _share(generator: Sequence[torch.Generator], n: int) -> int:
    """Return the number of rows, out of n, for each generator of a list."""
    if len(generator) == 0 or n % len(generator):
        raise UserError(f"generator is a list of {len(generator)}, but {n} rows need one generator, {n} of them, or a number dividing {n}.")
    return n // len(generator)


def chunks(n: int, size: int | None, generator: Generators = None) -> Iterator[tuple[slice, Generators]]:
    """Return chunks of at most `size` of n rows, each with its generators.

    With a list of generators, a chunk contains complete blocks or a part of one (`Piece`), so that the numbers and the final states of
    the generators do not depend on the chunk size. A single generator (or None) is a stream, from which the chunks draw one after
    another; pass it as a list of one to make the numbers independent of the chunks.

    Args:
        n: number of rows.
        size: rows per chunk, or None for all.
        generator: randomness of the n rows.

    Raises:
        UserError: size is below 1, or n is not divisible by the number of generators.
    """
    if size is None or whole("batch_size", size, 1) >= n:
        return iter([(slice(0, n), generator)])
    if not (generator is None or isinstance(generator, torch.Generator)):
        _share(generator, n)
    return _cut(n, size, generator)


def _cut(n: int, size: int, generator: Generators) -> Iterator[tuple[slice, Generators]]:
    if generator is None or isinstance(generator, torch.Generator):
        for start in range(0, n, size):
            yield slice(start, min(start + size, n)), generator
        return
    block = _share(generator, n)
    if block <= size:
        whole = size // block
        for first in range(0, len(generator), whole):
            some = generator[first : first + whole]
            yield slice(first * block, (first + len(some)) * block), some
        return
    for index, one in enumerate(generator):
        for start in range(0, block, size):
            inside = slice(start, min(start + size, block))
            piece = Piece.of(one, block, inside)
            yield slice(index * block + inside.start, index * block + inside.stop), piece
            if inside.stop == block:
                one.set_state(piece.get_state())


def seeded(generator: torch.Generator | None, seed: int, device: torch.device | str) -> torch.Generator:
    """Return a generator with this seed for the rows of another one, which may be a piece of a block."""
    return generator.seeded(seed) if isinstance(generator, Piece) else torch.Generator(device).manual_seed(seed)


def _draw(
    fill: Callable[..., Tensor], shape: Sequence[int], generator: Generators, device: torch.device | None, dtype: torch.dtype | None
) -> Tensor:
    if isinstance(generator, list | tuple) and len(generator) == 1:
        generator = generator[0]
    if isinstance(generator, Piece):
        drawn = fill(torch.empty((generator.block, *shape[1:]), device=generator.device, dtype=dtype), generator=generator)[generator.rows]
    elif generator is None or isinstance(generator, torch.Generator):
        at = device if generator is None else generator.device  # a CPU generator draws the same numbers on every device
        drawn = fill(torch.empty(tuple(shape), device=at, dtype=dtype), generator=generator)
    else:
        _share(generator, shape[0])  # raises an error if the rows cannot be divided
        drawn = torch.empty(tuple(shape), device=generator[0].device, dtype=dtype)
        for part, one in zip(drawn.chunk(len(generator)), generator, strict=True):
            fill(part, generator=one)
    return drawn if device is None else drawn.to(device)


def normal(
    shape: Sequence[int], generator: Generators = None, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return standard normal numbers of this shape; its first dimension is the batch."""
    return _draw(torch.Tensor.normal_, shape, generator, device, dtype)


def uniform(
    shape: Sequence[int], generator: Generators = None, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Return uniform numbers in [0, 1) of this shape; its first dimension is the batch."""
    return _draw(torch.Tensor.uniform_, shape, generator, device, dtype)
