"""Memory of tensors: which storage each uses, whose it is, and whether it was counted already."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pushforward.debug.graph_record import Kind, Saved


def storage_of(tensor: Tensor) -> tuple[int, int]:
    """Return an identifier of a tensor's storage, valid while the tensor is alive, and its size in bytes."""
    try:
        storage = tensor.untyped_storage()
        return storage._cdata, storage.nbytes()
    except (RuntimeError, NotImplementedError):  # a sparse tensor, or one inside a transform of torch.func
        return id(tensor), tensor.numel() * tensor.element_size()


class Storages:
    """Describes saved tensors, with each storage counted once.

    Args:
        owned: what existed before the call, in order of precedence: (kind, {name: tensor}).
        writes: the last in-place write to each storage.
    """

    def __init__(self, owned: Iterable[tuple[Kind, Mapping[str, Tensor]]], writes: Mapping[int, str]) -> None:
        self.owner: dict[int, tuple[Kind, str]] = {}
        for kind, tensors in owned:
            for name, tensor in tensors.items():
                self.owner.setdefault(storage_of(tensor)[0], (kind, name))
        self.writes = writes
        self.counted: dict[int, Tensor] = {}  # keeps the tensors alive, so that no identifier is reused

    def describe(self, name: str, tensor: Tensor, intact: bool = True, kind: Kind = "activation") -> Saved:
        """Return the record of a saved tensor."""
        key, size = storage_of(tensor)
        kind, label = self.owner.get(key, (kind, ""))
        new = kind in ("activation", "attribute") and key not in self.counted
        self.counted.setdefault(key, tensor)
        used = tensor.numel() * tensor.element_size()
        return Saved(
            name=name,
            kind=kind,
            label=label,
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            bytes=size,
            counted=new,
            view=used != size or math.prod(tensor.stride()) == 0,
            version=0 if tensor.is_inference() else tensor._version,
            overwritten="" if intact else self.writes.get(key, "an operation that was not observed"),
        )


def named_tensors(value: Any, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of nested arguments under the names by which a user finds them, such as "inputs[0]"."""
    found: dict[str, Tensor] = {}
    for path, leaf in torch.utils._pytree.tree_flatten_with_path(value)[0]:
        if isinstance(leaf, Tensor):
            found[prefix + torch.utils._pytree.keystr(path)] = leaf
    return found
