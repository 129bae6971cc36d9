"""Tensors that the caller still holds: arguments of the call, and what it is asked to protect."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pushforward.debug.overlap import share_memory, storage_of, strided

INPUT, PARAMETER = "input", "parameter"


class Held:
    """Tensors that no write should change, by their storage."""

    def __init__(self) -> None:
        self._tensors: dict[int, list[tuple[str, str, Tensor]]] = {}

    def add(self, kind: str, name: str, value: Any) -> None:
        """Hold all tensors of a value: a tensor, a Module's parameters, containers, and data sets with tensors as attributes."""
        for path, tensor in tensors_of(value, name):
            if strided(tensor):
                self._tensors.setdefault(storage_of(tensor), []).append((kind, path, tensor))

    def changed_by(self, written: Tensor) -> tuple[str, str, Tensor] | None:
        """Return kind, name and tensor of the first held one that shares memory with a written one."""
        entries = self._tensors.get(storage_of(written), ())
        return next((one for one in entries if share_memory(one[2], written)), None)

    def __bool__(self) -> bool:
        return bool(self._tensors)


def tensors_of(value: Any, name: str, inside: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a value with their paths, such as batch["x"][0]; `inside` are the objects that contain it."""
    if id(value) in inside:
        return
    inside = (*inside, id(value))
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, nn.Module):
        yield from ((f"{name}.{path}", parameter) for path, parameter in value.named_parameters())
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from tensors_of(one, f"{name}[{key!r}]", inside)
    elif isinstance(value, list | tuple | set | frozenset):
        for place, one in enumerate(value):
            yield from tensors_of(one, f"{name}[{place}]", inside)
    elif isinstance(value, DataLoader):
        yield from tensors_of(value.dataset, f"{name}.dataset", inside)
    elif isinstance(value, Dataset):
        for attribute, one in vars(value).items():
            yield from tensors_of(one, f"{name}.{attribute}", inside)
