"""Grouping the nodes of a graph by module: the hierarchy, how deep it is shown, and words for sizes and saved tensors."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field

from pushforward.debug.graph_record import GraphRecord, Node, Saved

CONTAINERS = ("ModuleList", "ModuleDict", "ParameterList", "ParameterDict")  # they run no code
FEW = 5  # groups that are too few for a picture


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


def opened_to(record: GraphRecord, depth: int) -> set[str]:
    """Return the modules whose parts are shown by themselves down to a depth; "" is the model itself."""
    chains = [("", *ancestors(record, path)) for path in record.modules]
    return {name for chain in chains for name in chain[:depth]}


def runs(record: GraphRecord, opened: Container[str]) -> list[Group]:
    """Return the groups of nodes made one after the other in the same module, in order.

    Args:
        record: the graph.
        opened: the modules whose parts are shown by themselves; all others are shown as one.
    """
    chains = {path: ("", *ancestors(record, path)) for path in {node.module for node in record.nodes}}
    shown = {path: next((name for name in chain if name not in opened), chain[-1]) for path, chain in chains.items()}
    found: list[Group] = []
    for node in record.nodes:
        path = shown[node.module]
        if not found or found[-1].path != path:
            found.append(Group(path, path in opened))
        found[-1].nodes.append(node)
    return found


def fitting(record: GraphRecord, most: int) -> list[Group]:
    """Return at most so many groups: modules that keep the most bytes are opened first, as far as their parts fit.

    A module that runs many times, such as the network of an ODE, is one group if otherwise almost nothing fits.
    """
    one_by_one = _opened(record, most, lambda groups: groups)
    return one_by_one if len(one_by_one) >= FEW else max(one_by_one, _opened(record, most, merged), key=len)


def _opened(record: GraphRecord, most: int, joined: Callable[[list[Group]], list[Group]]) -> list[Group]:
    opened: set[str] = set()
    closed: set[str] = set()
    while True:
        found = joined(runs(record, opened))
        nested = {one.path: bytes_of(one.nodes) for one in found if any(node.module != one.path for node in one.nodes)}
        candidates = nested.keys() - opened - closed
        if not candidates:
            return found
        chosen = max(candidates, key=lambda path: (nested[path], path))
        (opened if len(joined(runs(record, opened | {chosen}))) <= most else closed).add(chosen)


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
