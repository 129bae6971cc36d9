"""A whole batch that can also be read row by row, so that a DataLoader may collate it with or without a function of ours."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor


class Rows(Sequence[Any]):
    """The batch that a data set returns to a DataLoader for its indices, which also lists its examples for torch's `default_collate`.

    Args:
        batch: (x, cond), or (x, cond, noise), whose tensors have the batch's rows; cond may be None.
    """

    def __init__(self, batch: tuple[Any, ...]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch[0])

    def __getitem__(self, index: Any) -> Any:
        return row_of(tuple(None if one is None else one[index] for one in self.batch))

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(len(self)))


class Unlabelled(tuple[Tensor, ...]):
    """An example without a condition: (x,), or (x, noise).

    `default_collate` knows no None. It takes this for a namedtuple, stacks what is in it, and calls the type with the stacked tensors: that
    call returns the batch (x, None), or (x, None, noise), so that `for x, cond in loader` holds for every set.
    """

    __slots__ = ()
    _fields = ("x", "noise")

    def __new__(cls, x: Tensor, *noise: Tensor) -> Any:
        return (x, None, *noise)


def row_of(example: tuple[Any, ...]) -> Any:
    """Return an example (x, cond, ...) as `default_collate` can stack it."""
    return example if example[1] is not None else tuple.__new__(Unlabelled, (example[0], *example[2:]))
