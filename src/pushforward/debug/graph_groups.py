"""Grouping the nodes of a graph by module: the hierarchy, how deep it is shown, and words for sizes and saved tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pushforward.debug.graph_record import GraphRecord, Node, Saved

CONTAINERS = ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")  # they run no code


@dataclass
class Group:
    """Nodes that are shown as one.

    Args:
        path: dotted name of the module; "" is the model itself.
        nodes: its nodes.
        own: whether it is only the module's own code, while its submodules are shown by themselves.
        times: number of separate runs of nodes that are shown as one.
    """

    path: str
    own: bool
    nodes: list[Node] = field(default_factory=list)
    times: int = 1


def ancestors(record: GraphRecord, path: str) -> tuple[str, ...]:
    """Return a module's dotted names from the outermost module to itself, without containers such as ModuleList."""
    parts = path.split(".") if path else []
    names = [".".join(parts[:k]) for k in range(1, len(parts) + 1)]
    return tuple(name for name in names if name in record.modules and record.modules[name] not in CONTAINERS)


def deepest(record: GraphRecord) -> int:
    """Return how deep the modules are nested whose code made nodes."""
    return max((len(ancestors(record, node.module)) for node in record.nodes), default=0)


def shown_at(record: GraphRecord, node: Node, depth: int) -> tuple[str, bool]:
    """Return the module that a node is shown in, and whether it belongs to the module's own code there."""
    names = ancestors(record, node.module)[:depth]
    return names[-1] if names else "", len(names) < depth


def runs(record: GraphRecord, depth: int) -> list[Group]:
    """Return the groups of nodes made one after the other in the same module, in order."""
    found: list[Group] = []
    for node in record.nodes:
        path, own = shown_at(record, node, depth)
        if not found or (found[-1].path, found[-1].own) != (path, own):
            found.append(Group(path, own))
        found[-1].nodes.append(node)
    return found


def merged(groups: Iterable[Group]) -> list[Group]:
    """Return one group for each module, in the order of their first nodes."""
    found: dict[tuple[str, bool], Group] = {}
    for one in groups:
        group = found.setdefault((one.path, one.own), Group(one.path, one.own, times=0))
        group.nodes += one.nodes
        group.times += 1
    return list(found.values())


def bytes_of(nodes: Iterable[Node]) -> int:
    """Return the bytes that nodes keep, each storage once."""
    return sum(one.bytes for node in nodes for one in node.saved if one.counted)


def operations(nodes: Sequence[Node]) -> str:
    """Return the operations of nodes in forward order, each call once: "linear, silu, linear"."""
    return ", ".join({node.call: node.operation for node in nodes}.values())


def size_text(size: float) -> str:
    """Return a number of bytes in decimal units: 1 kB is 1,000 B."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def saved_text(one: Saved) -> str:
    """Return a saved tensor in a few words."""
    dtype = str(one.dtype).removeprefix("torch.")
    if one.kind == "recomputed":
        return f"{one.name} recomputed"
    if one.kind in ("parameter", "buffer", "input"):
        text = f"{one.name} = {one.label}"
    elif one.kind == "held":
        text = f"{one.name} = {one.label} {one.shape}, held"
    elif one.counted:
        part = " (part of its storage)" if one.view and one.bytes else ""
        text = f"{one.name} {one.shape} {dtype} {size_text(one.bytes)}{part}"
    else:
        text = f"{one.name} {one.shape}, counted above"
    return f"{text} OVERWRITTEN by {one.overwritten}" if one.overwritten else text
