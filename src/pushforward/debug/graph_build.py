"""Turning an observed call into records: nodes with what they save, cuts, and the parameters that get no gradient."""

import bisect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pushforward.debug.graph_calls import IN_PLACE, Call, Calls, OpenCut
from pushforward.debug.graph_record import Cut, Node, Saved, Unreached
from pushforward.debug.graph_walk import Kept, attributes_of, in_order, is_function, kept_by, nodes_behind, operation_of, variable_of
from pushforward.debug.sites import Site
from pushforward.debug.storages import Storages, storage_of

VIEWS = re.compile(
    r"(Alias|AsStrided|Diagonal|Expand|Movedim|Permute|Select|Slice|Split|SplitWithSizes|Squeeze|T|Transpose|Unbind|Unfold|Unsqueeze|View)"
    r"Backward\d*"
)
NOWHERE = Site(None, "", False)


class Builder:
    """The graph behind the outputs of an observed call.

    Args:
        outputs: the tensors that it returned.
        calls: what was recorded.
        names: names of parameters and inputs, by the id of the tensor.
        storages: describes saved tensors.
    """

    def __init__(self, outputs: Sequence[Tensor], calls: Calls, names: Mapping[int, str], storages: Storages) -> None:
        self.outputs, self.calls, self.names, self.storages = outputs, calls, names, storages
        self.roots = [one.grad_fn for one in outputs if one.grad_fn is not None]
        found = nodes_behind(self.roots)
        self.variables = {node: variable for node in found if (variable := variable_of(node)) is not None}
        self.ordered = in_order(node for node in found if node not in self.variables)
        self.index = {node: k for k, node in enumerate(self.ordered)}
        self.starts = [call.start for call in calls.calls]

    def nodes(self) -> tuple[Node, ...]:
        """Return the records of all nodes except the leaves."""
        frames: set[int] = set()
        found = [self._node(k, node, frames) for k, node in enumerate(self.ordered)]
        return tuple(self._with_attributes(record, node) for record, node in zip(found, self.ordered, strict=True))

    def _node(self, k: int, node: Any, frames: set[int]) -> Node:
        number, call = self._call_of(node)
        site = call.site if call else self.calls.functions.get(node._sequence_nr(), NOWHERE)
        operation = operation_of(node)
        if call and not is_function(node):
            operation = f"grad: {operation}" if call.name in ("grad", "backward") else call.name.strip("_")
        before = [one for one, _ in node.next_functions if one is not None]
        kept = [
            *kept_by(node, frames),
            *(Kept("written", one) for one in (call.written if call and node.name().endswith("CopySlices") else ())),
        ]
        return Node(
            index=k,
            call=number,
            operation=operation,
            kind=node.name(),
            module=site.module,
            place=site.place,
            inputs=tuple(dict.fromkeys(self.index[one] for one in before if one in self.index)),
            leaves=tuple(self._label(self.variables[one]) for one in before if one in self.variables),
            saved=tuple(self._saved(one) for one in kept),
            view=VIEWS.fullmatch(node.name()) is not None,
            in_place=call is not None and IN_PLACE.match(call.name) is not None,
        )

    def _with_attributes(self, record: Node, node: Any) -> Node:
        """Add what an autograd.Function stores on its `ctx`, also in the graph behind it: after all nodes, which count shared storages."""
        kept = list(attributes_of(node, self.index)) if is_function(node) else []
        return replace(record, saved=record.saved + tuple(map(self._saved, kept))) if kept else record

    def _call_of(self, node: Any) -> tuple[int, Call | None]:
        """Return the call that made a node and its number; a node made elsewhere has a number of its own."""
        place = bisect.bisect_right(self.starts, node._sequence_nr()) - 1
        if place >= 0 and node._sequence_nr() < self.calls.calls[place].end:
            return place, self.calls.calls[place]
        return -1 - self.index[node], None

    def _saved(self, kept: Kept) -> Saved:
        if kept.tensor is None:
            return Saved(kept.name, "recomputed")
        return self.storages.describe(kept.name, kept.tensor, kept.intact, "attribute" if kept.attribute else "activation")

    def _label(self, variable: Tensor) -> str:
        key = storage_of(variable)[0]  # a leaf may be a view of a parameter, made without gradients
        return self.names.get(id(variable)) or self.storages.owner.get(key, ("", ""))[1] or f"leaf {tuple(variable.shape)}"

    def reached(self) -> set[str]:
        """Return the names of the leaves that will receive a gradient.

        An autograd.Function may return None for an input. Where leaves are reached only through such nodes, the backward pass is run.
        """
        sure = nodes_behind(self.roots, torch.autograd.function.BackwardCFunction)
        doubtful = [variable for node, variable in self.variables.items() if node not in sure]
        none = set()
        if doubtful:
            ends = [one for one in self.outputs if one.grad_fn is not None]
            try:
                slopes = torch.autograd.grad(ends, doubtful, [torch.ones_like(one) for one in ends], retain_graph=True, allow_unused=True)
            except Exception:  # any: a backward pass that fails does so again where the user runs it
                slopes = tuple(doubtful)
            none = {id(variable) for variable, slope in zip(doubtful, slopes, strict=True) if slope is None}
        direct = [one for one in self.outputs if one.grad_fn is None and one.requires_grad]
        return {self._label(one) for one in (*self.variables.values(), *direct) if id(one) not in none}

    def cuts(self) -> dict[Cut, bool]:
        """Return all cuts, each with whether its value is used in the graph or returned."""
        returned = {key for one in self.outputs for key in self.calls.lost.get(one, ())}
        numbers = [(node._sequence_nr(), k) for k, node in enumerate(self.ordered)]
        found = {}
        for key, cut in self.calls.cuts.items():
            ranges = sorted(cut.uses)
            starts = [start for start, _ in ranges]
            used = tuple(k for number, k in numbers if (at := bisect.bisect_right(starts, number) - 1) >= 0 and number < ranges[at][1])
            found[Cut(cut.kind, cut.place, cut.module, self._behind(cut), used)] = bool(used) or key in returned
        return found

    def _behind(self, cut: OpenCut) -> tuple[str, ...]:
        """Return the names of the parameters whose gradients a cut stops."""
        leaves = [one for one in cut.behind.values() if isinstance(one, Tensor)]
        nodes = nodes_behind(one for one in cut.behind.values() if not isinstance(one, Tensor))
        leaves += [variable for node in nodes if (variable := variable_of(node)) is not None]
        found, order = {self._label(one) for one in leaves}, list(self.names.values())
        return tuple(sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name)))


def unreached(parameters: Mapping[str, Tensor], reached: Iterable[str], cuts: Mapping[Cut, bool], calls: Calls) -> tuple[Unreached, ...]:
    """Return the parameters that will receive no gradient, with the reasons."""
    missing = parameters.keys() - set(reached)
    return tuple(_reason(name, parameters[name], cuts, calls) for name in parameters if name in missing)


def _reason(name: str, parameter: Tensor, cuts: Mapping[Cut, bool], calls: Calls) -> Unreached:
    if not parameter.requires_grad:
        return Unreached(name, "its requires_grad is False")
    own = sorted((cut for cut in cuts if name in cut.parameters), key=lambda cut: not cuts[cut])
    if own:
        return Unreached(name, f"cut by {own[0]}" if cuts[own[0]] else f"used only for a value that ends in {own[0]}", own[0])
    if name in calls.used:
        return Unreached(name, f"used at {calls.used[name]}, but no gradient of the output passes there")
    return Unreached(name, "not used by this call")
