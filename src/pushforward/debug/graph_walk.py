"""Reading autograd's graph: its nodes in order, their leaves, and what each node keeps for the backward pass."""

import heapq
import re
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._autograd import SavedTensor

from pushforward.held import reachable

RAW = "_raw_saved_"
NARROW = {torch.float64: torch.float32, torch.int64: torch.int32, torch.complex128: torch.complex64}


class Kept(NamedTuple):
    """A value that a node keeps: a tensor, or None if it will be computed again."""

    name: str
    tensor: Tensor | None
    intact: bool = True  # not written in place since
    attribute: bool = False  # stored on `ctx` without save_for_backward


def nodes_behind(roots: Iterable[Any], closed: type | tuple[type, ...] = ()) -> set[Any]:
    """Return the nodes that are reached from the given ones, without those that are reached only through nodes of the types `closed`."""
    seen: set[Any] = set()
    pending = [node for node in roots if node is not None]
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            if not isinstance(node, closed):
                pending += [before for before, _ in node.next_functions if before is not None]
    return seen


def variable_of(node: Any) -> Tensor | None:
    """Return the leaf whose gradient a node accumulates, or None for any other node."""
    variable = getattr(node, "variable", None) if node.name().endswith("AccumulateGrad") else None
    return variable if isinstance(variable, Tensor) else None


def in_order(nodes: Iterable[Any]) -> list[Any]:
    """Return nodes such that each follows its inputs, and otherwise in the order in which they were made."""
    chosen = set(nodes)
    after: dict[Any, list[Any]] = {node: [] for node in chosen}
    missing = dict.fromkeys(chosen, 0)
    for node in chosen:
        for before in {one for one, _ in node.next_functions if one in chosen}:
            after[before].append(node)
            missing[node] += 1
    ready = [(node._sequence_nr(), id(node), node) for node in chosen if not missing[node]]
    heapq.heapify(ready)
    found = []
    while ready:
        node = heapq.heappop(ready)[2]
        found.append(node)
        for follower in after[node]:
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(ready, (follower._sequence_nr(), id(follower), follower))
    return found


def is_function(node: Any) -> bool:
    """Return whether a node is that of an autograd.Function."""
    return isinstance(node, torch.autograd.function.BackwardCFunction)


def operation_of(node: Any) -> str:
    """Return the operation of a node in forward terms, from the name that autograd gives it."""
    if is_function(node):
        return str(node.name().removesuffix("Backward"))
    return re.sub(r"^.*::|Backward\d*$", "", node.name()).lower()


def kept_by(node: Any, frames: set[int]) -> Iterator[Kept]:
    """Yield what a node keeps.

    Args:
        node: a node of autograd.
        frames: identifiers of the checkpointed regions whose inputs were yielded already; extended by those met here.

    Yields:
        Saved tensors; for each one packed by hooks, the tensors in what the hooks stored.
    """
    for attribute in dir(node):
        if not attribute.startswith(RAW):
            continue
        name = attribute.removeprefix(RAW)
        try:
            raw = getattr(node, attribute)
        except RuntimeError:  # a backward pass has freed it
            continue
        several = isinstance(raw, tuple | list)
        for k, one in enumerate(raw if several else (raw,)):
            if isinstance(one, SavedTensor):
                label = (f"saved[{k}]" if is_function(node) else f"{name}[{k}]") if several else name
                yield from _unpacked(label, one, node, frames, (attribute, k if several else None))


def attributes_of(node: Any, known: Container[Any]) -> Iterator[Kept]:
    """Yield the tensors that an autograd.Function stores as attributes of its `ctx`, and what is saved in the graphs behind them.

    Args:
        node: the node of an autograd.Function.
        known: nodes whose saved tensors are accounted for elsewhere.
    """
    for attribute, value in getattr(node, "__dict__", {}).items():
        tensors = [one for one in reachable([value]) if isinstance(one, Tensor)]
        yield from (Kept(f"ctx.{attribute}", one, attribute=True) for one in tensors)
        for other in in_order(one for one in nodes_behind(one.grad_fn for one in tensors) if one not in known):
            yield from (kept._replace(name=f"ctx.{attribute}: {kept.name}", attribute=True) for kept in kept_by(other, set()))


def _unpacked(name: str, saved: Any, node: Any, frames: set[int], at: tuple[str, int | None] | None) -> Iterator[Kept]:
    """Yield what a saved tensor holds; reading `unpack` instead would run the hooks, and recompute what is checkpointed."""
    hook = saved.unpack_hook
    if hook is None:
        if isinstance(saved.data, Tensor) and not _is_number(saved.data):
            value = _read(node, *at) if at else saved.data
            yield Kept(name, saved.data if value is None else value, value is not None)
        return
    frame = next((cell.cell_contents for cell in getattr(hook, "__closure__", None) or () if _is_frame(cell.cell_contents)), None)
    if frame is None:
        yield from (Kept(f"{name} (packed)", one) for one in reachable([saved.data]) if isinstance(one, Tensor))
        return
    yield Kept(name, None)
    if id(frame) in frames:
        return
    frames.add(id(frame))
    for k, one in enumerate(_inputs_of(frame)):
        yield from _unpacked(f"checkpoint[{k}]", one, node, frames, None)


def _read(node: Any, attribute: str, k: int | None) -> Tensor | None:
    """Return a saved tensor, or None if it was written in place since: autograd compares version counters where it is read."""
    try:
        found = node.saved_tensors if is_function(node) else getattr(node, attribute.replace("_raw", "", 1))
    except RuntimeError:
        return None
    value: Tensor = found if k is None else found[k]
    return value


def _is_number(tensor: Tensor) -> bool:
    """Return whether a tensor is a Python number in autograd's formulas, which yields to the dtype of any tensor."""
    narrow = NARROW.get(tensor.dtype) if tensor.ndim == 0 else None
    return narrow is not None and torch.result_type(torch.zeros((), dtype=narrow), tensor) == narrow


def _is_frame(one: Any) -> bool:
    return type(one).__module__ == "torch.utils.checkpoint" and hasattr(one, "recompute_fn")


def _inputs_of(frame: Any) -> list[SavedTensor]:
    """Return the stored inputs of a checkpointed region, which torch before 2.11 keeps in a node of their own."""
    stored = frame.saved_args if hasattr(frame, "saved_args") else frame.input_saver.grad_fn._raw_saved_tensors
    return [one for one in stored if isinstance(one, SavedTensor)]
