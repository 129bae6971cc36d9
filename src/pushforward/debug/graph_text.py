"""A graph as text: totals, a tree of modules with what they save, the cuts, and the parameters without gradient."""

from collections.abc import Iterator, Sequence

from pushforward.debug.graph_groups import ancestors, bytes_of, deepest, operations, saved_text, size_text
from pushforward.debug.graph_record import GraphRecord, Node

LINES, WIDTH, NAMED = 60, 150, 12  # of the tree; of a line; parameters that are listed


def text_of(record: GraphRecord, depth: int | None = None) -> str:
    """Return a graph as text, with modules collapsed that are nested deeper than `depth` (None: so that the tree has at most 60 lines)."""
    if depth is None:
        tree = next((one for k in range(deepest(record), 0, -1) if len(one := _tree(record, k)) <= LINES), _tree(record, 0))
    else:
        tree = _tree(record, depth)
    return "\n\n".join("\n".join(part) for part in (totals(record), tree, _cuts(record), _unreached(record)) if part)


def totals(record: GraphRecord) -> list[str]:
    """Return the numbers of a graph in a few lines."""
    kinds: list[str] = [one.kind for one in record.saved]
    lines = [f"{record.title}: {len(record.nodes)} nodes, which keep {size_text(record.saved_bytes)} for the backward pass"]
    counts = [(kinds.count(kind), words) for kind, words in NOT_COUNTED.items()]
    present = [f"{count} {words[count > 1]}" for count, words in counts if count]
    if present:
        lines.append(f"also needed, without additional memory: {', '.join(present)}")
    if record.attribute_bytes:
        lines.append(f"also {size_text(record.attribute_bytes)} on the ctx of autograd Functions, not by save_for_backward")
    lines += [f"OVERWRITTEN after it was saved, so backward will raise an error: {_where(node)}" for node in record.overwritten]
    return lines


NOT_COUNTED = {
    "parameter": ("parameter", "parameters"),
    "buffer": ("buffer", "buffers"),
    "input": ("input", "inputs"),
    "held": ("tensor that existed before", "tensors that existed before"),
    "recomputed": ("tensor that is recomputed", "tensors that are recomputed"),
}


def _tree(record: GraphRecord, depth: int) -> list[str]:
    """Return a line for each module and each line of code that calls torch, in the order of their first nodes."""
    rows = list(_rows(record, record.nodes, "", 0, depth))
    wide = max((len(label) for label, _, _ in rows), default=0)
    lines = [f"{label:{wide}}  {size_text(size) if size else '':>8}  {text}".rstrip() for label, size, text in rows]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..." for line in lines]


def _rows(record: GraphRecord, nodes: Sequence[Node], inside: str, level: int, depth: int) -> Iterator[tuple[str, int, str]]:
    """Yield (label, bytes, details) for the nodes of one module."""
    parts: dict[str | tuple[str, tuple[str, int] | None], list[Node]] = {}
    for node in nodes:
        names = ancestors(record, node.module)[level : level + 1]
        parts.setdefault(names[0] if names else (node.operation, _line(node)), []).append(node)
    for key, own in parts.items():
        indent, size = "  " * level, bytes_of(own)
        if isinstance(key, tuple):
            times = len({node.call for node in own})
            yield (
                f"{indent}· {key[0]}{f' x{times}' if times > 1 else ''}",
                size,
                " ".join(filter(None, (_saved(own), f"[{own[0].place.where}]" if own[0].place else ""))),
            )
            continue
        label = f"{indent}{key.removeprefix(inside).lstrip('.')} {record.modules[key]}"
        calls = {(node.operation, _line(node), node.module) for node in own}
        if level + 1 >= depth or len(calls) == 1:
            words = operations(own)
            yield label, size, "; ".join(filter(None, (words if len(words) < 50 else f"{words[:47]}...", _saved(own))))
        else:
            yield label, size, ""
            yield from _rows(record, own, key, level + 1, depth)


def _line(node: Node) -> tuple[str, int] | None:
    return (node.place.file, node.place.line) if node.place else None


def _saved(nodes: Sequence[Node]) -> str:
    """Return what nodes save, largest first; what existed before only if there is nothing else."""
    saved = sorted((one for node in nodes for one in node.saved), key=lambda one: (not one.overwritten, -one.bytes * one.counted))
    kept = [saved_text(one) for one in saved if one.kind in ("activation", "attribute")] or [saved_text(one) for one in saved]
    return ", ".join(list(dict.fromkeys(kept))[:4])


def _where(node: Node) -> str:
    saved = next(one for one in node.saved if one.overwritten)
    return f"{saved.name} {saved.shape} of {node.operation} at {node.place}; written by {saved.overwritten}"


def _cuts(record: GraphRecord) -> list[str]:
    if not record.cuts:
        return []
    return ["cuts:", *(f"  {cut}\n    stops {_some(cut.parameters) or 'the gradient of its inputs'}" for cut in record.cuts)]


def _unreached(record: GraphRecord) -> list[str]:
    if not record.unreached:
        return []
    reasons: dict[str, list[str]] = {}
    for one in record.unreached:
        reasons.setdefault(one.reason, []).append(one.name)
    lines = [f"  {_some(names)}: {reason}" for reason, names in reasons.items()]
    return [f"{len(record.unreached)} of {len(record.unreached) + len(record.reached)} parameters receive no gradient:", *lines]


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
