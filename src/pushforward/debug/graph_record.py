"""What `debug.graph` returns: records of nodes, saved tensors, cuts and parameters without gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from pushforward.debug.places import Place

Kind = Literal["activation", "parameter", "buffer", "input", "held", "attribute", "recomputed"]


@dataclass(frozen=True)
class Saved:
    """A tensor that a node keeps for the backward pass.

    Args:
        name: which of the node's values it is, as in torch's formulas: "self", "weight", "result".
        kind: "activation" is memory that the call added; "parameter", "buffer", "input" and "held" existed before it (held: by the model or
            function, such as a mask); "attribute" is an activation stored on the `ctx` of an autograd.Function without `save_for_backward`;
            "recomputed" is not stored but computed again (activation checkpointing).
        label: the name of the parameter, buffer or input.
        shape: its shape, () if it is recomputed.
        dtype: its dtype, None if it is recomputed.
        bytes: size of its storage, of which the tensor may be a part.
        counted: whether these bytes are part of the sum: each storage counts once, at the first node that keeps it.
        view: whether the tensor covers only a part of its storage, or is expanded.
        version: how often the storage was written in place.
        overwritten: what wrote it after it was saved, and where, so that the backward pass will raise an error; else "".
    """

    name: str
    kind: Kind
    label: str = ""
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    bytes: int = 0
    counted: bool = False
    view: bool = False
    version: int = 0
    overwritten: str = ""


@dataclass(frozen=True)
class Node:
    """A node of autograd's graph, that is a step of the backward pass.

    Args:
        index: position in the order in which the nodes were made.
        call: number of the call of torch that made it; one call may make several nodes.
        operation: the call in forward terms, such as "linear"; the name of an autograd.Function; "grad: mul" inside `autograd.grad`.
        kind: autograd's own name, such as "AddmmBackward0".
        module: dotted name of the module whose code made the call; "" is the model itself.
        place: the line that made the call.
        inputs: the nodes that receive gradients from this one.
        leaves: names of the parameters and inputs that receive gradients from this one.
        saved: what it keeps for the backward pass.
        view: whether the operation returns a view.
        in_place: whether the operation writes to its input.
    """

    index: int
    call: int
    operation: str
    kind: str
    module: str
    place: Place | None
    inputs: tuple[int, ...]
    leaves: tuple[str, ...]
    saved: tuple[Saved, ...]
    view: bool
    in_place: bool


@dataclass(frozen=True)
class Cut:
    """A place at which the graph ends although what is computed there depends on parameters.

    Args:
        kind: "detach", "no_grad", "inference_mode", "item" (a tensor became a Python number or an array), or the name of an operation
            without derivative.
        place: the line; for no_grad that of the `with` statement or of the decorated function.
        module: dotted name of the module whose code cuts; "" for no_grad, whose block may call many.
        parameters: names of the parameters whose gradients do not pass here.
        used_by: the nodes that use the value.
    """

    kind: str
    place: Place | None
    module: str
    parameters: tuple[str, ...]
    used_by: tuple[int, ...]

    def __str__(self) -> str:
        module = f" in module {self.module}" if self.module else ""
        return f"{self.kind}{module} at {self.place or 'the call of debug.graph'}"


@dataclass(frozen=True)
class Unreached:
    """A parameter whose gradient will be None.

    Args:
        name: its dotted name.
        reason: why, in one clause.
        cut: the cut that keeps it out, if there is one.
    """

    name: str
    reason: str
    cut: Cut | None = None


@dataclass(frozen=True)
class GraphRecord:
    """The fields and numbers of a `Graph`, which its text and its picture are made from."""

    title: str
    nodes: tuple[Node, ...]
    cuts: tuple[Cut, ...]
    unreached: tuple[Unreached, ...]
    reached: tuple[str, ...]
    modules: Mapping[str, str]

    @property
    def saved(self) -> tuple[Saved, ...]:
        """All tensors that the nodes keep, a tensor once for each node that keeps it."""
        return tuple(one for node in self.nodes for one in node.saved)

    @property
    def saved_bytes(self) -> int:
        """Bytes that stay allocated until the backward pass because of saved tensors, each storage once, without what existed before."""
        return sum(one.bytes for one in self.saved if one.counted and one.kind == "activation")

    @property
    def attribute_bytes(self) -> int:
        """Bytes that stay allocated because an autograd.Function stores tensors on its `ctx` without `save_for_backward`."""
        return sum(one.bytes for one in self.saved if one.counted and one.kind == "attribute")

    @property
    def overwritten(self) -> tuple[Node, ...]:
        """The nodes whose saved tensors were written in place later: their backward pass raises an error."""
        return tuple(node for node in self.nodes if any(one.overwritten for one in node.saved))
