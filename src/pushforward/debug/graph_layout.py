"""A layered layout of boxes and arrows: layers by the longest path, few crossings, straight arrows.

Source: Sugiyama, Tagawa and Toda, Methods for visual understanding of hierarchical system structures, 1981; the order
within layers is that of the mean position of the neighbours.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

GAP, SWEEPS, MOVES = 24.0, 8, 30  # between boxes of a layer; passes that order the layers; passes that straighten arrows
HEAVY = 8.0  # how much more an arrow between neighbouring layers is straightened than a piece of a long one


@dataclass(frozen=True)
class Layout:
    """Positions: the centre of each box, the points of each arrow from edge to edge, and the size of the picture."""

    centres: list[tuple[float, float]]
    arrows: list[list[tuple[float, float]]]
    width: float
    height: float


def layered(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], gap: float = 34.0) -> Layout:
    """Place boxes in layers, such that every arrow points down.

    Args:
        sizes: width and height of each box.
        edges: pairs (from, to) with from < to.
        gap: vertical distance of layers.

    Returns:
        The layout; boxes of a layer do not overlap.
    """
    level = [0] * len(sizes)
    for a, b in sorted(edges, key=lambda edge: edge[1]):
        level[b] = max(level[b], level[a] + 1)
    level = _lowered(level, edges)
    widths, heights, layers = [w for w, _ in sizes], [h for _, h in sizes], list(level)
    chains: list[list[int]] = []  # each edge as a chain of boxes and of points in the layers between
    for a, b in edges:
        chain = [a]
        for k in range(level[a] + 1, level[b]):
            chain.append(len(widths))
            widths.append(8.0)
            heights.append(0.0)
            layers.append(k)
        chains.append([*chain, b])
    links = [pair for chain in chains for pair in itertools.pairwise(chain)]
    above: list[list[int]] = [[] for _ in widths]
    below: list[list[int]] = [[] for _ in widths]
    for a, b in links:
        above[b].append(a)
        below[a].append(b)
    rows: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
    for one, layer in enumerate(layers):
        rows[layer].append(one)
    x = _across(rows, widths, above, below, len(sizes))
    tops, y = [], 0.0
    for row in rows:
        tops.append(y)
        y += max(heights[one] for one in row) + gap
    low = min((x[one] - widths[one] / 2 for one in range(len(widths))), default=0.0)
    high = max((x[one] + widths[one] / 2 for one in range(len(widths))), default=0.0)
    deep = [max(heights[one] for one in row) for row in rows]
    centres = [(x[one] - low, tops[layers[one]] + deep[layers[one]] / 2) for one in range(len(sizes))]
    arrows = []
    for a, *between, b in chains:
        points = [(centres[a][0], centres[a][1] + heights[a] / 2)]
        for one in between:  # straight past the boxes of the layer
            points += [(x[one] - low, tops[layers[one]]), (x[one] - low, tops[layers[one]] + deep[layers[one]])]
        arrows.append([*points, (centres[b][0], centres[b][1] - heights[b] / 2)])
    return Layout(centres, arrows, high - low, max(y - gap, 0.0))


def _lowered(level: list[int], edges: Sequence[tuple[int, int]]) -> list[int]:
    """Move boxes without arrows to them next to the box that they point to, so that their arrows are short."""
    targets: dict[int, list[int]] = {}
    entered = {b for _, b in edges}
    for a, b in edges:
        targets.setdefault(a, []).append(level[b])
    return [min(targets[k]) - 1 if k in targets and k not in entered else one for k, one in enumerate(level)]


def _across(rows: list[list[int]], widths: list[float], above: list[list[int]], below: list[list[int]], boxes: int) -> list[float]:
    """Return the horizontal centre of each box: layers are ordered by the mean of their neighbours, then moved towards it."""
    x = [0.0] * len(widths)

    def mean(me: int, others: Sequence[int]) -> float:
        weights = [HEAVY if me < boxes and one < boxes else 1.0 for one in others]
        return sum(w * x[one] for w, one in zip(weights, others, strict=True)) / sum(weights) if others else x[me]

    for row in rows:
        _packed(row, x, widths, [float(k) for k in range(len(row))])
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            wanted = {me: mean(me, above[me] if down else below[me]) for me in row}
            row.sort(key=lambda me: wanted[me])
            _packed(row, x, widths, [wanted[me] for me in row])
    for move in range(MOVES):
        for row in rows if move % 2 else reversed(rows):
            _packed(row, x, widths, [mean(me, [*above[me], *below[me]]) for me in row])
    return x


def _packed(row: list[int], x: list[float], widths: list[float], wanted: list[float]) -> None:
    """Place a row in its order as close to the wanted positions as its widths allow: the mean of pushing right and of pushing left."""
    right, left = list(wanted), list(wanted)
    for k in range(1, len(row)):
        right[k] = max(right[k], right[k - 1] + (widths[row[k - 1]] + widths[row[k]]) / 2 + GAP)
    for k in range(len(row) - 2, -1, -1):
        left[k] = min(left[k], left[k + 1] - (widths[row[k + 1]] + widths[row[k]]) / 2 - GAP)
    for k, one in enumerate(row):
        x[one] = (right[k] + left[k]) / 2
