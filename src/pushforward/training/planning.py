"""Memory, communication and time of a training step on many GPUs, on paper: counted from the network's own code, without a GPU."""

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pushforward._checks import real, whole
from pushforward.errors import UserError
from pushforward.nn.layers import Blocks
from pushforward.registry import export

WIDE = 4  # bytes of a weight, a gradient, a moment and an average: float32 under autocast too
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
Kind = Literal["ddp", "fsdp", "hybrid"]
Inputs = Callable[[int], tuple[Any, ...]]


@export("training.Cluster")
@dataclass(frozen=True)
class Cluster:
    """What a plan assumes of the machines; the defaults are eight H100 SXM a machine with 400 Gb/s of network each.

    Args:
        machine: GPUs of a machine.
        memory: bytes of a GPU.
        flops: floating-point operations a second of a GPU in the precision that is used.
        utilisation: share of `flops` that a step's products of matrices reach.
        inside: bytes a second that a GPU sends to others of its machine.
        across: bytes a second that a machine sends to others, by all of its network cards together.
        latency: seconds of one hop between two GPUs.

    Raises:
        UserError: a number is out of range.
    """

    machine: int = 8
    memory: float = 80e9
    flops: float = 989e12
    utilisation: float = 0.4
    inside: float = 450e9
    across: float = 400e9
    latency: float = 5e-6

    def __post_init__(self) -> None:
        whole("machine", self.machine, 1)
        for name in ("memory", "flops", "utilisation", "inside", "across"):
            if not real(name, getattr(self, name)) > 0:
                raise UserError(f"{name} is {getattr(self, name)}, but it must be above 0.")
        real("latency", self.latency, 0)


@dataclass(frozen=True)
class Costs:
    """What a training step of a network costs, counted from its code.

    Args:
        parameters: number of weights.
        unit: number of weights of the largest block, which is gathered as a whole.
        units: number of blocks.
        held: bytes kept for the backward pass that do not depend on the number of images: weights in a narrower dtype.
        per_image: bytes kept for the backward pass, of one image.
        again: bytes that the recomputation of one block keeps, of one image; 0 without activation checkpointing.
        forward: floating-point operations of the forward pass of one image.
        recomputed: whether blocks are computed again in the backward pass.
    """

    parameters: int
    unit: int
    units: int
    held: int
    per_image: int
    again: int
    forward: float
    recomputed: bool

    @property
    def flops(self) -> float:
        """Floating-point operations of a step for one image: a backward pass costs two forward passes."""
        return self.forward * (4 if self.recomputed else 3)

    def activations(self, images: int) -> int:
        """Return the bytes that are kept for the backward pass at its start, and what a block adds while it is recomputed."""
        return self.held + images * (self.per_image + self.again)


@export("training.costs_of")
def costs_of(
    build: Callable[[], nn.Module],
    inputs: Inputs,
    *,
    precision: torch.dtype | None = torch.bfloat16,
    activation_checkpointing: bool = False,
) -> Costs:
    """Return what a training step of a network costs, from a pass with fake tensors, which have shapes but no data.

        bytes for n images = held + n per_image,    from the saved tensors of n = 2 and n = 3

    Args:
        build: returns the network, such as `lambda: nn.MMDiT((16, 128, 128))`.
        inputs: returns the network's arguments for n images.
        precision: dtype of autocast, or None for none.
        activation_checkpointing: whether the blocks of a network that has some are recomputed in the backward pass.

    Returns:
        The `Costs`: numbers of weights, bytes and operations.

    Raises:
        UserError: activation checkpointing of a network without blocks.

    Example:
        >>> import torch, pushforward as pf
        >>> build = lambda: pf.nn.MLP.Config((64,)).build((2,))
        >>> costs = pf.training.costs_of(build, lambda n: (torch.zeros(n, 2), torch.zeros(n)), precision=None)
        >>> costs.parameters == sum(p.numel() for p in build().parameters())
        True
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        net: Any = build()
        blocks = net.units() if isinstance(net, Blocks) else []
        if activation_checkpointing and not blocks:
            raise UserError(
                f"activation_checkpointing is on, but {type(net).__name__} has no blocks that can be recomputed; switch it off."
            )
        counted = functools.partial(_kept, net, inputs, precision)
        held, per_image, again = *_line(counted), 0
        if activation_checkpointing:
            stored = per_image
            net.activation_checkpointing = True
            held, per_image = _line(counted)
            net.activation_checkpointing = False
            again = math.ceil((stored - per_image) / len(blocks))
        with FlopCounterMode(display=False, custom_mapping={ATTENTION: _attention_flops}) as counter:
            net(*inputs(1))
        return Costs(
            parameters=sum(p.numel() for p in net.parameters()),
            unit=max((sum(p.numel() for p in one.parameters()) for one in blocks), default=0),
            units=len(blocks),
            held=held,
            per_image=per_image,
            again=again,
            forward=float(counter.get_total_flops()),
            recomputed=activation_checkpointing,
        )


def _line(counted: Callable[[int], int]) -> tuple[int, int]:
    """Return the bytes that do not depend on the number of images, and those of each image."""
    two, three = counted(2), counted(3)  # of one image some tensors have other strides
    return two - 2 * (three - two), three - two


def _attention_flops(q: Any, k: Any, v: Any, *others: Any, **options: Any) -> int:
    """Return the operations of the attention of queries (n, heads, tokens, c), which torch does not count on a CPU."""
    flops: int = 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])
    return flops


def _kept(net: nn.Module, inputs: Inputs, precision: torch.dtype | None, n: int) -> int:
    """Return the bytes of the tensors that the graph of net(*inputs(n)) saves besides the weights."""
    own = {p.untyped_storage()._cdata for p in net.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    cast = contextlib.nullcontext() if precision is None else torch.autocast("cpu", precision)
    with saved_tensors_hooks(keep, lambda tensor: tensor), cast:
        out = net.train()(*inputs(n))
    assert any(one.requires_grad for one in tree_leaves(out) if isinstance(one, Tensor))  # and its graph is alive until here
    return sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in own)


@export("training.Plan")
@dataclass(frozen=True)
class Plan:
    """A training step on many GPUs, on paper.

    Args:
        memory: bytes in each GPU by what takes them.
        sent: bytes that each GPU sends in a step.
        compute: seconds of computation.
        communication: seconds of communication, if nothing else happened meanwhile.
    """

    memory: dict[str, float]
    sent: float
    compute: float
    communication: float

    @property
    def bytes(self) -> float:
        """Bytes in each GPU."""
        return sum(self.memory.values())

    @property
    def efficiency(self) -> tuple[float, float]:
        """Share of the time of a step that is computation, if no communication is hidden behind it, and if as much as possible is."""
        return self.compute / (self.compute + self.communication), self.compute / max(self.compute, self.communication)

    def __str__(self) -> str:
        parts = "\n".join(f"{name:<24} {size / 1e9:8.2f} GB" for name, size in self.memory.items())
        low, high = self.efficiency
        return (
            f"{parts}\n{'in all':<24} {self.bytes / 1e9:8.2f} GB\n{'sent in a step':<24} {self.sent / 1e9:8.2f} GB\n"
            f"{'computation':<24} {self.compute:8.3f} s\n{'communication':<24} {self.communication:8.3f} s\n"
            f"{'efficiency':<24} {100 * low:.0f} to {100 * high:.0f} %"
        )


@export("training.plan")
def plan(
    costs: Costs,
    images: int,
    processes: int,
    parallel: Kind = "ddp",
    *,
    cluster: Cluster = Cluster(),
    ema: bool = True,
    shard_size: int | None = None,
) -> Plan:
    """Return memory, communication and time of a training step on GPUs, of which each computes so many images.

        memory = 4 (2 + 2 + ema) P / s + gathered + activations,    s = 1 (ddp), processes (fsdp) or shard_size (hybrid)
        sent = 2 G (N - 1) / N (ddp),    3 G (N - 1) / N (fsdp),    3 G (s - 1) / s + 2 G / s (M - 1) / M (hybrid),    G = 4 P

    of P weights, N processes and M = N / s copies: a ring's all-reduce sends a gradient twice, FSDP gathers all weights in the forward
    and in the backward pass and scatters their gradients. A collective takes bytes / bandwidth + hops * latency, with s - 1 hops of each
    all-gather and reduce-scatter of a block, and 2 log2(M) hops of an all-reduce by trees. More GPUs than one machine has are limited
    by the network too, which the all-reduces of the shards of one machine share.

    Args:
        costs: of the network, from `costs_of`.
        images: images on each GPU and step.
        processes: number of GPUs.
        parallel: "ddp", "fsdp" or "hybrid".
        cluster: what is assumed of the machines.
        ema: whether averaged weights are kept.
        shard_size: processes that share one copy under "hybrid"; None is a machine.

    Returns:
        The `Plan`: bytes in each GPU, bytes sent, and seconds.

    Raises:
        UserError: a number is out of range, or the shard size does not divide the processes.

    Example:
        >>> import torch, pushforward as pf
        >>> costs = pf.training.costs_of(lambda: pf.nn.MLP.Config((64,)).build((2,)), lambda n: (torch.zeros(n, 2), torch.zeros(n)))
        >>> two = pf.training.plan(costs, images=32, processes=2)
        >>> two.sent == 4 * costs.parameters
        True

    Source: Rajbhandari et al., ZeRO, 2020, arXiv 1910.02054, sections 5 and 7; Patarasuk and Yuan, Bandwidth optimal all-reduce, 2009.
    """
    whole("images", images, 1)
    whole("processes", processes, 1)
    if parallel not in ("ddp", "fsdp", "hybrid"):
        raise UserError(f"parallel is {parallel!r}, but it is 'ddp', 'fsdp' or 'hybrid'.")
    group = {"ddp": 1, "fsdp": processes, "hybrid": min(cluster.machine, processes) if shard_size is None else shard_size}[parallel]
    if whole("shard_size", group, 1) and processes % group:
        raise UserError(f"shard_size is {group}, which does not divide {processes} processes; give a divisor.")
    size, copies = WIDE * costs.parameters, processes // group
    memory: dict[str, float] = {"weights": size / group, "gradients": size / group, "moments": 2 * size / group}
    if ema:
        memory["average"] = size / group
    if group > 1:  # the block in use, and the next one, which is gathered meanwhile; its gradient
        memory["gathered blocks"] = 3 * WIDE * (costs.unit or costs.parameters)
    memory["activations"] = costs.activations(images)
    parts = max(1, costs.units) + 1
    gathered, averaged = 3 * size * (group - 1) / group, 2 * size / group * (copies - 1) / copies
    seconds = _seconds(cluster, gathered, 3 * parts * (group - 1), group, 1)
    seconds += _seconds(cluster, averaged, 2 * math.ceil(math.log2(copies)), processes, min(group, cluster.machine))
    compute = images * costs.flops / (cluster.flops * cluster.utilisation)
    return Plan(memory, gathered + averaged, compute, seconds)


def _seconds(cluster: Cluster, sent: float, hops: int, span: int, sharing: int) -> float:
    """Return the seconds of collectives that span so many GPUs; as many at a time as `sharing` share a machine's network."""
    bandwidth = cluster.inside if span <= cluster.machine else min(cluster.inside, cluster.across / sharing)
    return sent / bandwidth + hops * cluster.latency
