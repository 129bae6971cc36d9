"""A graph as an SVG picture: a box for each module or run of its own code, shaded by what it saves, and a red one for each cut."""

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from pushforward.debug.graph_groups import Group, bytes_of, fitting, merged, opened_to, operations, runs, saved_text, size_text
from pushforward.debug.graph_layout import Layout, layered
from pushforward.debug.graph_record import Cut, GraphRecord, Node
from pushforward.debug.graph_text import totals

BOXES, MOST = 32, 400  # boxes at the depth that is chosen; boxes above which those of a module are merged at any depth
LETTER, BOLD, LINE, PAD, MARGIN = 6.6, 7.4, 16, 10, 24  # pixels
LONGEST, TIPS = 46, 40  # letters of a line in a box; lines of its tooltip
INK, SOFT, ACCENT, RED = "#1f2933", "#7b8794", "#2563eb", "#c92a2a"
FONT = "ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, 'Noto Sans', sans-serif"


@dataclass(frozen=True)
class _Box:
    lines: tuple[str, ...]
    tip: str
    share: float  # of the bytes of the box that saves most
    cut: bool = False

    @property
    def size(self) -> tuple[float, float]:
        wide = max(len(self.lines[0]) * BOLD, *(len(line) * LETTER for line in self.lines))
        return wide + 2 * PAD, len(self.lines) * LINE + PAD


def svg_of(record: GraphRecord, depth: int | None = None) -> str:
    """Return a graph as the text of an SVG file, with modules collapsed that are nested deeper than `depth`, or so that 32 boxes remain."""
    groups = _groups(record, depth)
    place = {node.index: k for k, group in enumerate(groups) for node in group.nodes}
    cuts = [cut for cut in record.cuts if cut.used_by]
    # Boxes are in forward order, cuts in front of all, so that each arrow points to a later one.
    pairs = {(place[before] + len(cuts), place[node.index] + len(cuts)) for node in record.nodes for before in node.inputs}
    solid = sorted((a, b) for a, b in pairs if a < b)
    dashed = sorted({(k, place[one] + len(cuts)) for k, cut in enumerate(cuts) for one in cut.used_by[:1]})
    largest = max([bytes_of(group.nodes) for group in groups], default=0)
    boxes = [*map(_cut_box, cuts), *(_box(record, group, largest) for group in groups)]
    layout = layered([box.size for box in boxes], [*solid, *dashed])
    head = [line for text in totals(record) for line in textwrap.wrap(text, 96)]
    foot = _foot(record)
    width = max(layout.width, *(len(line) * BOLD for line in (*head, *foot))) + 2 * MARGIN
    top = MARGIN + LINE * len(head) + 12
    height = top + layout.height + (LINE * len(foot) + 16 if foot else 0) + MARGIN
    left = (width - layout.width) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="{FONT}" font-size="12">',
        f"<title>{escape(record.title)}</title>",
        '<rect width="100%" height="100%" fill="white" rx="6"/>',
        f'<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{SOFT}"/></marker>',
        *(_text(MARGIN, MARGIN + LINE * k + 4, line, INK if k == 0 else SOFT, k == 0) for k, line in enumerate(head)),
        f'<g transform="translate({left:.1f} {top:.1f})">',
        *(_arrow(points, k >= len(solid)) for k, points in enumerate(layout.arrows)),
        *(_drawn(box, layout, k) for k, box in enumerate(boxes)),
        "</g>",
        *(_text(MARGIN, top + layout.height + 28 + LINE * k, line, RED, k == 0) for k, line in enumerate(foot)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _groups(record: GraphRecord, depth: int | None) -> list[Group]:
    if depth is None:
        return fitting(record, BOXES)
    groups = runs(record, opened_to(record, depth))
    return groups if len(groups) <= MOST else merged(groups)


def _box(record: GraphRecord, group: Group, largest: int) -> _Box:
    name, kind = group.path, record.modules.get(group.path, "")
    times = f" ×{group.times}" if group.times > 1 else ""
    size = bytes_of(group.nodes)
    saved = sorted((one for node in group.nodes for one in node.saved if one.counted), key=lambda one: -one.bytes)
    lines = [_short(f"{name} {kind}".strip() + times or record.title), _short(operations(group.nodes))]
    if saved:
        shapes = ", ".join(f"{one.name} {one.shape}" for one in saved)
        lines.append(_short(f"keeps {size_text(size)}: {shapes}"))
    if any(one.overwritten for node in group.nodes for one in node.saved):
        lines.append("overwritten after it was saved")
    tips = [_tip(node) for node in group.nodes[:TIPS]] + ["..."] * (len(group.nodes) > TIPS)
    return _Box(tuple(lines), "\n".join(tips), size / largest if largest else 0.0)


def _tip(node: Node) -> str:
    saved = ", ".join(map(saved_text, node.saved)) or "saves nothing"
    return f"{node.operation} ({node.kind}) {node.place.where if node.place else ''}: {saved}"


def _cut_box(cut: Cut) -> _Box:
    where = cut.place.where if cut.place else ""
    lines = [_short(f"{cut.kind} {where}"), _short(f"no gradient to {', '.join(cut.parameters) or 'its input'}")]
    return _Box(tuple(lines), str(cut), 0.0, True)


def _foot(record: GraphRecord) -> list[str]:
    if not record.unreached:
        return []
    names = ", ".join(one.name for one in record.unreached)
    return [f"{len(record.unreached)} parameters receive no gradient:", *textwrap.wrap(names, 96, max_lines=4, placeholder=" ...")]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _text(x: float, y: float, text: str, colour: str, bold: bool = False, middle: bool = False) -> str:
    style = (' font-weight="600"' if bold else "") + (' text-anchor="middle"' if middle else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{style}>{escape(text)}</text>'


def _drawn(box: _Box, layout: Layout, k: int) -> str:
    (x, y), (width, height) = layout.centres[k], box.size
    edge = RED if box.cut else ACCENT if box.share else SOFT
    inside = f'fill="{edge}" fill-opacity="{0.06 if box.cut else 0.3 * box.share:.3f}"' + (' stroke-dasharray="4 3"' if box.cut else "")
    first, colours = y - height / 2 + LINE - 1, (INK, SOFT, edge, RED)
    texts = [_text(x, first + LINE * n, line, colours[n], n == 0, True) for n, line in enumerate(box.lines)]
    frame = f'x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5"'
    return f'<g><title>{escape(box.tip)}</title><rect {frame} fill="white"/><rect {frame} {inside} stroke="{edge}"/>{"".join(texts)}</g>'


def _arrow(points: Sequence[tuple[float, float]], dashed: bool) -> str:
    """Return a smooth curve through points."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        half = (by - ay) / 2
        path += f"L{bx:.1f} {by:.1f}" if ax == bx else f"C{ax:.1f} {ay + half:.1f} {bx:.1f} {by - half:.1f} {bx:.1f} {by:.1f}"
    style = f'stroke="{RED}" stroke-dasharray="4 3"' if dashed else f'stroke="{SOFT}"'
    return f'<path d="{path}" fill="none" {style} marker-end="url(#tip)"/>'
