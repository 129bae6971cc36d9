"""How several processes share a model: each has all of it (DDP), a shard of it (FSDP), or a shard of its group's copy (hybrid)."""

import math
import os
from typing import Literal

import torch
from torch import nn

from pushforward._memory import free_memory
from pushforward.errors import UserError
from pushforward.families.continuous_flow import ContinuousFlow
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.samplers.sampler import AdaptiveSampler
from pushforward.training.processes import Processes
from pushforward.training.settings import Settings

Kind = Literal["ddp", "fsdp", "hybrid"]
SHARE = 0.5  # of a device's memory that weights, gradients, optimiser and average may take; the rest is for activations


def chosen(model: GenerativeModel, settings: Settings, processes: Processes, device: torch.device) -> tuple[Kind, int]:
    """Return how the processes share a model, and how many of them hold one copy of it; the same in all of them.

    "auto" is "ddp" where half of the smallest device's free memory holds `training_bytes`, or where the model cannot be sharded; else
    "hybrid" over the processes of one machine where half of their memory holds them, and "fsdp" over all processes where it does not.
    One process shards nothing.

    Raises:
        UserError: the model or a setting does not allow what was asked for, or `shard_size` does not divide the number of processes.
    """
    size, kind = processes.size, settings.parallel
    if size == 1 or kind == "ddp":
        return "ddp", 1
    machine = min(processes.gather(int(os.environ.get("LOCAL_WORLD_SIZE", size))))
    if kind == "auto":
        room = SHARE * min(processes.gather(_memory(device, machine)))
        needed = training_bytes(model, settings)
        if needed <= room or obstacle(model, settings):
            return "ddp", 1
        return ("hybrid", machine) if machine < size and size % machine == 0 and needed <= machine * room else ("fsdp", size)
    why = obstacle(model, settings)
    if why:
        raise UserError(f"parallel is {kind!r}, but {why}; use parallel='ddp'.")
    if kind == "fsdp":
        return "fsdp", size
    group = settings.shard_size or machine
    if size % group:
        raise UserError(
            f"shard_size is {group}{'' if settings.shard_size else ', the processes of one machine'}, which does not divide the {size} "
            f"processes; use one of {', '.join(str(k) for k in range(2, size + 1) if size % k == 0)}, or parallel='fsdp'."
        )
    if group == 1:
        raise UserError("shard_size is 1, so that nothing would be sharded; use parallel='ddp', or a shard_size of at least 2.")
    return ("fsdp", size) if group == size else ("hybrid", group)


def training_bytes(model: nn.Module, settings: Settings) -> int:
    """Return the bytes that weights, their gradients, AdamW's two moments and their average take in one process that shards nothing."""
    copies = 4 + bool(settings.ema)
    return sum(p.numel() * p.element_size() * (copies if p.requires_grad else 1) for p in model.parameters())


def obstacle(model: GenerativeModel, settings: Settings) -> str:
    """Return why a model cannot be sharded when trained with these settings, or ''."""
    if isinstance(model, FlowMap) and model.objective.uses_jvp:
        name = type(model.objective).__name__
        return f"{name} differentiates its network by forward mode (torch.func.jvp), which the hooks that gather shards do not support"
    if settings.unused_parameters:
        return "unused_parameters is on, and processes with gradients of different parameters cannot share them in shards"
    if isinstance(model, ContinuousFlow) and isinstance(model.loss_sampler, AdaptiveSampler):
        return f"its loss is solved by {type(model.loss_sampler).__name__}, whose number of calls of the network differs between processes"
    if settings.channels_last:
        return "channels_last is on, and only contiguous weights can be sharded"
    if any(getattr(one, "memory", "full") == "reversible" for one in model.modules()):
        return "memory is 'reversible', whose backward pass runs without the hooks that gather shards"
    scalar = next((name for name, p in model.named_parameters() if p.ndim == 0), None)
    if scalar is not None:
        return f"its parameter {scalar} is a scalar, which has no dimension to shard; give it the shape (1,)"
    return ""


def _memory(device: torch.device, machine: int) -> float:
    """Return the free bytes of this process: of its GPU, or its share of main memory."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return free_memory() / machine if device.type == "cpu" else math.inf
