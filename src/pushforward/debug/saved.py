"""Values saved for backward: where each was saved, and what has been written to its memory since."""

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import graph

from pushforward.debug.overlap import share_memory, storage_of, strided
from pushforward.debug.places import Mark, here, in_optimiser

PLAIN = (Tensor, nn.Parameter)  # not a subclass with a dispatch of its own


@dataclass(frozen=True)
class Write:
    """The latest write of one line to a storage: its number, operator and line, and the tensor as it was written (detached)."""

    order: int
    operator: str
    mark: Mark
    tensor: Tensor
    optimiser: bool


class History:
    """The writes to one storage while a value in it is saved for backward, the latest of each line."""

    def __init__(self) -> None:
        self.writes: dict[tuple[str, Mark], Write] = {}
        self.__weakref__: Any


class Saved:
    """A value saved for backward, as the graph holds it."""

    __slots__ = ("__weakref__", "history", "mark", "order", "tensor", "version")

    def __init__(self, tensor: Tensor, history: History, order: int, mark: Mark) -> None:
        self.tensor, self.history, self.order, self.mark = tensor, history, order, mark
        self.version = tensor._version

    @property
    def changed(self) -> bool:
        """Whether torch has counted a write since, which makes backward raise."""
        return self.tensor._version != self.version

    def later(self) -> list[Write]:
        """Return the writes since, first those that touch the value's own elements, each in order."""
        since = sorted((one for one in self.history.writes.values() if one.order > self.order), key=lambda one: one.order)
        return sorted(since, key=lambda one: not share_memory(one.tensor, self.tensor))

    def touched(self) -> Write | None:
        """Return the first write since to the value's own elements."""
        since = self.later()
        return since[0] if since and share_memory(since[0].tensor, self.tensor) else None


class SavedValues:
    """Watch all values that autograd saves, by hooks, and report those that changed before backward reads them.

    Args:
        report: called with a value that changed, when backward reads it; it raises where torch would raise without the hooks, which turn
            torch's own comparison of versions off.
        thread: the thread that runs the user's code.
    """

    def __init__(self, report: Callable[[Saved], None], thread: int) -> None:
        self._report, self._thread = report, thread
        self._histories: weakref.WeakValueDictionary[int, History] = weakref.WeakValueDictionary()
        self._alive: weakref.WeakSet[Saved] = weakref.WeakSet()
        self._order = itertools.count()
        self._hooks = graph.saved_tensors_hooks(self._pack, self._unpack)
        self._disable = graph.disable_saved_tensors_hooks
        self.transforms = False  # whether torch.func ran, whose saved values are not seen

    def __enter__(self) -> None:
        self._hooks.__enter__()
        graph.disable_saved_tensors_hooks = self._without_hooks  # type: ignore[assignment]

    def __exit__(self, *error: object) -> None:
        graph.disable_saved_tensors_hooks = self._disable
        self._hooks.__exit__(*error)

    @contextmanager
    def _without_hooks(self, message: str) -> Iterator[None]:
        """Take the hooks off while torch.func runs, which refuses to run with any."""
        top = torch._C._autograd._top_saved_tensors_default_hooks(True)
        ours = top is not None and top[0] == self._pack
        self.transforms |= ours
        paused: AbstractContextManager[None] = self._off() if ours else _nothing()
        with paused, self._disable(message):
            yield

    @contextmanager
    def _off(self) -> Iterator[None]:
        self._hooks.__exit__(None, None, None)
        try:
            yield
        finally:
            self._hooks.__enter__()

    def _pack(self, tensor: Tensor) -> Saved:
        # Detached, since a graph that holds its own output would never be freed; the version counter is shared.
        with torch._C._DisableTorchDispatch() if type(tensor) in PLAIN else _nothing():
            value = tensor.detach()
        key = storage_of(value) if strided(value) else id(value)
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = History()
        saved = Saved(value, history, next(self._order), here(self._thread))
        self._alive.add(saved)
        return saved

    def _unpack(self, saved: Saved) -> Tensor:
        if saved.changed or (saved.history.writes and saved.touched() is not None):
            self._report(saved)
        return saved.tensor

    def written(self, tensor: Tensor, operator: str) -> None:
        """Record a write."""
        history = self._histories.get(storage_of(tensor))
        if history is not None:
            mark = here(self._thread)
            history.writes[operator, mark] = Write(next(self._order), operator, mark, tensor.detach(), in_optimiser())

    def changed(self) -> list[Saved]:
        """Return the values whose graph is still in use and that torch would refuse to read, other than by an optimiser's step."""
        stale = [one for one in list(self._alive) if one.changed]
        return [one for one in stale if not any(write.optimiser for write in one.later())]


@contextmanager
def _nothing() -> Iterator[None]:
    yield
