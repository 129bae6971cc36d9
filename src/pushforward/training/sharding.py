"""FSDP2: a model whose weights are sharded over processes by block, its average, and its weights gathered into a plain model."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pushforward.families.model import GenerativeModel
from pushforward.training.compiling import compile_networks
from pushforward.training.shards import full, local, on_host

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

VERBS = ("loss", "sample", "log_prob", "encode", "decode", "rsample_and_log_prob")


class Sharded:
    """A model whose weights, gradients and optimiser are sharded over processes, which it becomes in place.

    Args:
        model: the model, equal in all processes.
        device: where it trains.
        size: number of processes.
        group: number of processes that share one copy, a divisor of `size`; other groups hold copies.
        compiled: whether its blocks are compiled.
    """

    def __init__(self, model: GenerativeModel, device: torch.device, size: int, group: int, compiled: bool = False) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        shape, names = ((size,), ("shard",)) if group == size else ((size // group, group), ("replicate", "shard"))
        self.mesh: DeviceMesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        # The same processes with what they keep in main memory.
        self.host = self.mesh if device.type == "cpu" else init_device_mesh("cpu", shape, mesh_dim_names=names)
        self.model: Any = model
        self.group = group
        self.empty = skeleton(model)
        if compiled:
            compile_networks(model, device, units(model))
        shard(model, self.mesh)

    def copied(self) -> nn.Module:
        """Return a copy that is sharded in the same way, such as an average; no process ever holds all of its weights."""
        copied = copy.deepcopy(self.empty)
        shard(copied, self.mesh)
        copied.to_empty(device=next(self.model.parameters()).device)
        with torch.no_grad():
            pairs = [
                *zip(copied.parameters(), self.model.parameters(), strict=True),
                *zip(copied.buffers(), self.model.buffers(), strict=True),
            ]
            for one, other in pairs:
                local(one).copy_(local(other))
        return copied

    def gathered(self, sharded: nn.Module) -> GenerativeModel:
        """Return a plain model with all weights of one that is sharded in the same way; all processes must call it."""
        whole = copy.deepcopy(self.empty)
        whole.load_state_dict({name: full(one) for name, one in sharded.state_dict().items()}, assign=True)
        return whole.train(sharded.training)

    def on_host(self, tensors: Mapping[str, Tensor], copied: bool) -> dict[str, Tensor]:
        """Return tensors with each process's part in its main memory, as copies or where they are if they are there."""
        return {name: on_host(one, self.host, copied) for name, one in tensors.items()}

    @contextmanager
    def callable_parts(self, sharded: Any) -> Iterator[None]:
        """Gather what blocks do not gather themselves, so that in this context parts of a sharded copy may be called."""
        sharded.unshard()
        yield
        sharded.reshard()

    def synchronise(self, on: bool) -> None:
        """Exchange gradients in the next backward pass or keep them, unsharded, until a later one."""
        self.model.set_requires_gradient_sync(on)


def units(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that the networks and flows of a model state, the inner ones first."""
    found = {id(unit): unit for one in model.modules() if callable(getattr(one, "units", None)) for unit in one.units()}  # type: ignore[operator]
    return sorted(found.values(), key=lambda unit: sum(1 for _ in unit.modules()))


def shard(model: nn.Module, mesh: "DeviceMesh") -> None:
    """Shard a model's weights in place: those of a block are gathered for its own forward and backward pass, the rest for the model's.

    Gathered weights keep their dtype, so that autocast gives what it gives without shards.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Of blocks that return views, which only a caller that writes to them must not: no module here writes to what it was given.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for unit in units(model):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh)
    for verb in VERBS:
        register_fsdp_forward_method(model, verb)


def skeleton(model: GenerativeModel) -> GenerativeModel:
    """Return a copy of a model, with its buffers, whose parameters have no values (on the device "meta")."""
    empty: dict[int, Any] = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, empty)
