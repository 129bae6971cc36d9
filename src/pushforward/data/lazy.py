"""Data sets whose examples stay on disk until a batch reads them, with the interface of an in-memory set."""

import copy
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pushforward.data.dataset import Batch, Dataset
from pushforward.data.inference import described
from pushforward.errors import DataError, UserError
from pushforward.registry import export

LOOKED_AT = 64  # examples whose bytes are hashed in a fingerprint
AT_ONCE = 1024  # examples per read of `in_memory`


@export("data.LazyDataset")
class LazyDataset(Dataset):
    """Read examples x from their source when a batch needs them; labels are held in memory.

    It is used like a `Dataset`, including in a DataLoader with any number of workers. Code that needs all examples together, such as
    evaluation, calls `in_memory(most)`; accessing `x` raises. To add a kind of source, implement `_read` and `_signature`.

    Args:
        name: name of the set in messages and reports.
        rows: indices (N,) of the source's examples that are in the set.
        shape: shape of one example.
        cond, classes, levels, class_names: as in `Dataset`; cond has one row for each of `rows`.
    """

    def __init__(
        self,
        name: str,
        rows: Tensor,
        shape: Sequence[int],
        cond: Tensor | None = None,
        *,
        classes: int | None = None,
        levels: int | None = None,
        class_names: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._shape = tuple(shape)
        self._describe(name, (len(rows), *self._shape), cond, classes, levels, class_names, columns)
        self.schema = described(self.columns, self.levels, self.categories, self.class_names)
        self.rows = rows
        if len(rows) == 0:
            raise DataError(f"{name} has no examples; give at least one.")

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the examples at these places of the set (n,), as float32 or uint8 (n, *shape), and the indices that were actually read."""
        raise NotImplementedError

    def _signature(self, places: Tensor) -> bytes:
        """Return what identifies the source and its content at these indices (n,)."""
        raise NotImplementedError

    @property
    def x(self) -> Tensor:
        """Raise: all examples together may exceed memory."""
        raise UserError(f"{self.name} keeps its examples on disk: read batches, or call in_memory(most) for a set that has x.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self._shape

    @property
    def shards(self) -> Tensor | None:  # type: ignore[override]
        """The number of the shard (N,) that holds each example, or None."""
        held = getattr(getattr(self, "source", None), "shard_of", None)
        return held[self.rows] if isinstance(held, Tensor) else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice) -> Batch:
        if isinstance(index, slice):
            return self.batch(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has no example {index}; it has {len(self)}.")
        x, cond = self.batch([index % len(self)])
        return x[0], None if cond is None else cond[0]

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Return the examples with these indices as one batch (x, cond)."""
        places = torch.as_tensor(indices, dtype=torch.int64).cpu()
        x, places = self._read(places) if len(places) else (torch.empty(0, *self.shape), places)
        return x.to(torch.float32), None if self.cond is None else self.cond[places]

    def subset(self, indices: Sequence[int] | Tensor) -> "LazyDataset":
        """Return the set of the examples with these indices, in this order; classes and levels are kept."""
        chosen = torch.as_tensor(indices, dtype=torch.int64).cpu()
        if len(chosen) == 0:
            raise DataError(f"{self.name}: the subset is empty; give at least one example.")
        part = copy.copy(self)
        part.rows, part.cond = self.rows[chosen], None if self.cond is None else self.cond[chosen]
        return part

    def in_memory(self, most: int | None = None) -> Dataset:
        """Return the examples, or the first `most` of them, as a set in memory."""
        count = len(self) if most is None else min(most, len(self))
        parts = [self._read(torch.arange(start, min(start + AT_ONCE, count))) for start in range(0, count, AT_ONCE)]
        places = torch.cat([one for _, one in parts])
        return Dataset(
            self.name,
            torch.cat([x for x, _ in parts]),
            None if self.cond is None else self.cond[places],
            classes=self.classes,
            levels=self.levels,
            class_names=self.class_names,
            columns=self.columns,
        )

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of a SHA-256 that reads only a little of the source, so that it is cheap for any size.

        It covers shape, classes, levels, the rows of the source in the set, cond, the signature of the source (for files their size and
        type), and the bytes of 64 examples spread evenly over the set. A change of any other example that keeps the size is not detected.
        """
        digest = hashlib.sha256(repr(((len(self), *self.shape), self.classes, self.levels)).encode())
        for held in (self.rows, self.cond):
            digest.update(b"" if held is None else held.cpu().contiguous().numpy().tobytes())
        digest.update(self._signature(torch.linspace(0, len(self) - 1, min(LOOKED_AT, len(self))).round().long()))
        return digest.hexdigest()[:16]
