"""Tensors that may be sharded over processes (DTensor): the part of this process, and the whole."""

from collections.abc import Mapping
from typing import Any

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


def on_main(tensors: Mapping[str, Tensor], main: bool) -> dict[str, Tensor]:
    """Return copies of whole tensors in the main memory of the first process, gathered one by one; no other process keeps any."""
    whole = ((name, full(one), is_sharded(one)) for name, one in tensors.items())
    return {name: one.to("cpu", copy=not gathered) for name, one, gathered in whole if main}


def on_host(sharded: Tensor, mesh: Any) -> Tensor:
    """Return a copy of a sharded tensor, each part in the main memory of its process.

    Args:
        sharded: the tensor.
        mesh: the mesh of its processes, of CPUs.
    """
    from torch.distributed.tensor import DTensor

    one: Any = sharded
    own = local(sharded).to("cpu", copy=True)
    return DTensor.from_local(own, mesh, one.placements, run_check=False, shape=one.shape, stride=one.stride())
