"""Samples and densities that several processes compute together: the first one asks for them, and each computes its rows of every chunk.

A process asks only inside the block in which it leads the others (`training.leading`); elsewhere a model's verbs wait for no other process.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pushforward import _random
from pushforward._shares import Share
from pushforward.families.checks import device_of
from pushforward.families.drawing import densities, drawn

Parts = tuple[Tensor, Tensor | None]


class Leader(Protocol):
    """The first process, which leads the others."""

    model: Any
    size: int

    def collect(self, task: "Task", own: Callable[[], Parts]) -> list[Parts]:
        """Return what each process has computed of a task, in the order of ranks; `own` computes the part of this one."""
        ...


LEADER: ContextVar[Leader | None] = ContextVar("leader", default=None)


@dataclass(frozen=True)
class Task:
    """What is asked of all processes, as it is sent to them: tensors on the CPU.

    Args:
        verb: what is computed.
        n: number of rows.
        batch_size: rows of a chunk, or None for all.
        training: whether the model is in train mode.
        device: type of the generator's device.
        state: the generator's state.
        stream: whether the caller gave no generator, so that all draw from the device's own.
        arguments: the verb's own arguments.
    """

    verb: Literal["sample", "log_prob"]
    n: int
    batch_size: int | None
    training: bool
    device: str
    state: Tensor
    stream: bool
    arguments: dict[str, Any]

    @torch.no_grad()
    def part(self, model: Any, share: Share, generator: torch.Generator | None = None) -> Parts:
        """Return the rows of a share, on the CPU; a process that does not lead makes the generator from its state."""
        device = device_of(model)
        if generator is None:
            generator = torch.Generator(device if self.device == device.type else self.device)
            generator.set_state(self.state)
            model.train(self.training)
        arguments = tree_map_only(Tensor, lambda one: one.to(device), self.arguments)
        if self.verb == "sample":
            x, values = drawn(model, self.n, **arguments, generator=generator, batch_size=self.batch_size, share=share)
            return x.cpu(), None if values is None else values.cpu()
        options: dict[str, Any] = {"generator": generator, "batch_size": self.batch_size, "share": share, "stream": self.stream}
        return densities(model, **arguments, **options).cpu(), None


def among_processes(
    model: Any, verb: Literal["sample", "log_prob"], n: int, generator: _random.Generators, batch_size: int | None, **arguments: Any
) -> Parts | None:
    """Return samples or densities that all processes have computed, or None if this process is to compute them alone.

    It is if it leads no others, if gradients are kept, if each row has a generator of its own, and if there are fewer rows than processes;
    also in what is compiled, where a look at the leader would break the graph.
    """
    leader = None if torch.compiler.is_compiling() else LEADER.get()
    if leader is None or leader.model is not model or (verb == "log_prob" and torch.is_grad_enabled()):
        return None
    device = device_of(model)
    source = _own(device) if generator is None else generator
    if not isinstance(source, torch.Generator) or min(n, batch_size or n) < leader.size:
        return None
    sent = tree_map_only(Tensor, lambda one: one.detach().cpu(), arguments)
    task = Task(verb, n, batch_size, model.training, source.device.type, source.get_state(), generator is None, sent)
    asked = LEADER.set(None)
    try:
        parts = leader.collect(task, lambda: task.part(model, Share(0, leader.size), source))
    finally:
        LEADER.reset(asked)
    order = torch.cat([Share(rank, leader.size).rows(n, batch_size) for rank in range(leader.size)]).argsort()
    x, values = (torch.cat([one for one in some if one is not None])[order].to(device) if some[0] is not None else None
                 for some in zip(*parts, strict=True))  # fmt: skip
    assert x is not None
    return x, values


def _own(device: torch.device) -> torch.Generator | None:
    """Return the generator that a device draws from without another one."""
    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator if device.type == "cpu" else None
