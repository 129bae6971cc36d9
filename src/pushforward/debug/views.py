"""Where tensors whose elements share memory came from, and which tensors are parts of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary

from pushforward.debug.overlap import overlapping, repetitions, storage_of, strided
from pushforward.debug.places import Mark, here

Geometry = tuple[int | torch.SymInt, tuple[int, ...], tuple[int, ...]]
OUTSIDE = "numpy or another library"
BEFORE = "before the check"


@dataclass(frozen=True)
class Origin:
    """How a tensor came to have elements that share memory: by which operator (or from where), at which line, from which shape."""

    how: str
    mark: Mark
    source: tuple[int, ...] | None = None


class Views:
    """What the check has seen of views with overlapping elements.

    Origins are found by storage, offset, shape and strides, so that `nn.Parameter(x)` has the origin of x. Parts are found by identity,
    since a row of an expanded tensor looks exactly like the tensor that was expanded, which may well be written.
    """

    def __init__(self) -> None:
        self._origins: dict[int, tuple[StorageWeakRef, dict[Geometry, Origin]]] = {}
        self._parents: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._limit = 1024

    def viewed(self, operator: str, inputs: tuple[Any, ...], output: Any, thread: int | None) -> None:
        """Record the views that an operator returned of its first tensor."""
        base = next((one for one in inputs if isinstance(one, Tensor)), None)
        for out in output if isinstance(output, list | tuple) else (output,):
            if isinstance(out, Tensor) and strided(out):
                self._view(operator, base, out, thread)

    def _view(self, operator: str, base: Tensor | None, out: Tensor, thread: int | None) -> None:
        overlaps, same = overlapping(out), base is not None and overlapping(base)
        if overlaps:
            origin = self.origin(base) if same and base is not None else None
            if origin is None and same:
                outside = operator.endswith("lift_fresh") and not out.untyped_storage().resizable()
                origin = Origin(OUTSIDE, here(thread)) if outside else Origin(BEFORE, ())
            if origin is None:
                origin = Origin(operator.partition(".")[2], here(thread), None if base is None else tuple(base.shape))
            self._remember(out, origin)
        if base is not None and base is not out and (same or self._parents):
            parent = self._parent(base)
            if parent is None or (same and repetitions(base) > repetitions(parent)):
                parent = base if same else None
            if parent is not None:
                self._parents[out] = TensorWeakRef(parent)

    def _remember(self, tensor: Tensor, origin: Origin) -> None:
        if len(self._origins) > self._limit:
            self._origins = {key: entry for key, entry in self._origins.items() if not entry[0].expired()}
            self._limit = max(1024, 2 * len(self._origins))
        known = self._origins.get(storage_of(tensor))
        if known is None:
            known = self._origins[storage_of(tensor)] = (StorageWeakRef(tensor.untyped_storage()), {})
        known[1][_geometry(tensor)] = origin

    def origin(self, tensor: Tensor) -> Origin | None:
        """Return how a tensor came to overlap itself, or None if the check has not seen it."""
        known = self._origins.get(storage_of(tensor))
        return None if known is None else known[1].get(_geometry(tensor))

    def _parent(self, tensor: Tensor) -> Tensor | None:
        reference = self._parents.get(tensor)
        return None if reference is None else reference()

    def expanded_parent(self, part: Tensor) -> Tensor | None:
        """Return the expanded tensor, still in use, of which `part` is a part, so that a write to it also changes other parts."""
        parent = self._parent(part) if self._parents else None
        return parent if parent is not None and repetitions(parent) > repetitions(part) else None


def _geometry(tensor: Tensor) -> Geometry:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
