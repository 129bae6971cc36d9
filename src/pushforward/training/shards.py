"""Tensors that may be sharded over processes (DTensor): the part of this process, and the whole."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is sharded; by its methods, as importing DTensor takes a second."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, which shares its memory; all of one that is not sharded."""
    one: Any = tensor.detach()
    return one.to_local() if is_sharded(one) else one


def full(tensor: Tensor) -> Tensor:
    """Return all of a tensor, gathered if it is sharded, for which all processes must call it."""
    one: Any = tensor.detach()
    return one.full_tensor() if is_sharded(one) else one


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor sharded as `like` is, without an exchange, as every process has all of it."""
    one: Any = like
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole.to(one.device), one.device_mesh, one.placements, src_data_rank=None)


def on_host(tensor: Tensor, mesh: Any, copied: bool) -> Tensor:
    """Return a tensor in main memory; of a sharded one, each process's part.

    Args:
        tensor: the tensor, sharded or not.
        mesh: the mesh of its processes, of CPUs.
        copied: whether it shares no memory with the tensor.
    """
    one: Any = tensor
    own = local(tensor).to("cpu", copy=copied)
    if not is_sharded(tensor):
        return own
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(own, mesh, one.placements, run_check=False, shape=one.shape, stride=one.stride())


def on_main(tensors: Mapping[str, Tensor], group: Any) -> dict[str, Tensor]:
    """Return whole tensors on the first process of a group, gathered one by one, and nothing on the others; all of them call it.

    Args:
        tensors: tensors in main memory, those that are sharded by rows (as FSDP does) over the processes of the group.
        group: process group of the processes that share one copy, in the order of their parts.
    """
    main, found = dist.get_rank(group) == 0, {}
    for name, one in tensors.items():
        whole = _gathered(one, group, main) if is_sharded(one) else one
        if main:
            found[name] = whole
    return found


def _gathered(sharded: Tensor, group: Any, main: bool) -> Any:
    own, parts = local(sharded), dist.get_world_size(group)
    rows = math.ceil(sharded.shape[0] / parts)  # of each part but the last ones
    padded = own if len(own) == rows else torch.cat((own, own.new_zeros(rows - len(own), *own.shape[1:])))
    every = [torch.empty_like(padded) for _ in range(parts)] if main else None
    dist.gather(padded.contiguous(), every, dst=0, group=group)
    return None if every is None else torch.cat(every)[: sharded.shape[0]]
