"""Random draws that can be tied to a sample's place: one generator for the batch, or a list of them, each for its equal share of rows."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pushforward.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None


def blocks(generator: Generators, n: int) -> Iterator[tuple[slice, torch.Generator | None]]:
    """Yield the rows of each generator, with it: all n rows for one generator (or None), n / k rows each for a list of k.

    Raises:
        UserError: n cannot be shared out equally.
    """
    if generator is None or isinstance(generator, torch.Generator):
        yield slice(0, n), generator
        return
    rows = _share(generator, n)
    for index, one in enumerate(generator):
        yield slice(index * rows, (index + 1) * rows), one


def _share(generator: Sequence[torch.Generator], n: int) -> int:
    """Return how many of n rows each generator of a list draws."""
    if len(generator) == 0 or n % len(generator):
        raise UserError(f"generator is a list of {len(generator)}, but {n} rows need one generator, {n} of them, or a number dividing {n}.")
    return n // len(generator)


def select(generator: Generators, rows: slice, n: int) -> Generators:
    """Return the generators of some rows of a batch of n: the list's own part, or the one generator itself."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    per_row = n // len(generator)
    return generator[rows.start // per_row : -(-rows.stop // per_row)]


def _draw(
    fill: Callable[..., Tensor], shape: Sequence[int], generator: Generators, device: torch.device | None, dtype: torch.dtype | None
) -> Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        at = device if generator is None else generator.device  # a CPU generator draws the same numbers whatever the model's device
        drawn = fill(torch.empty(tuple(shape), device=at, dtype=dtype), generator=generator)
    else:
        _share(generator, shape[0])  # refuses rows that cannot be shared out
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
