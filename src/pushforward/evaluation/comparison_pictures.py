"""Pictures of a comparison: samples of one model at several numbers of evaluations, and quality against evaluations of all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.evaluation.comparison import TRAINING_DATA, Column, Row
from pushforward.evaluation.pictures import INK, colours, figure_of, plain, save_figure, tiles
from pushforward.functional.levels import Levels

SHOWN = ("sliced_wasserstein", "kernel_distance", "precision", "recall", "coverage", "recognised")
IMAGES, ACROSS = 30, 10  # images of a panel, and in each of its rows
MARKS = "osD^vP*X<>"


def samples_picture(made: Mapping[int | None, tuple[Tensor, Tensor | None]], path: Path, levels: Levels) -> bool:
    """Draw samples at the fewest, a middle and the largest number of evaluations; return whether there was anything to draw.

    Images are sorted by label, points of the plane coloured by it; other events have no picture.
    """
    counts = list(made)
    shape = made[counts[0]][0].shape[1:] if counts else ()
    images = len(shape) == 3
    if not images and shape != (2,):
        return False
    chosen = list(dict.fromkeys((counts[0], counts[len(counts) // 2], counts[-1])))
    figure = figure_of(2.6 * len(chosen) + 0.1, 1.35 if images else 2.9)
    for axes, count in zip(numpy.atleast_1d(figure.subplots(1, len(chosen), sharex=True, sharey=True)), chosen, strict=True):
        x, labels = made[count]
        if images:
            order = _spread_over(labels, len(x))
            axes.imshow(tiles(x[order], levels, ACROSS), interpolation="nearest", cmap="gray", vmin=0, vmax=1)
        else:
            axes.scatter(x[:, 0], x[:, 1], s=2, alpha=0.6, linewidths=0, **colours(labels))
            axes.set_aspect("equal", "box")
        axes.set_title("1 pass" if count is None else f"{count} evaluation{'s' * (count > 1)}", fontsize=9, color=INK)
        axes.set_axis_off()
    save_figure(figure, path)
    return True


def _spread_over(labels: Tensor | None, n: int) -> Tensor:
    """Return indices of at most 30 samples, ordered so that each column of the grid holds one class where there are labels of classes."""
    if labels is None:
        return torch.arange(min(n, IMAGES))
    classes = [(labels == label).nonzero().flatten() for label in labels.unique()[:ACROSS]]
    most = min(IMAGES // ACROSS, *map(len, classes)) if len(classes) > 1 else min(n, IMAGES)
    return torch.stack([one[:most] for one in classes], dim=1).flatten()


def quality_picture(rows: Sequence[Row], columns: Sequence[Column], path: Path) -> bool:
    """Draw the metrics against network evaluations, a line for each model; return whether there was anything to draw."""
    present = [one for one in columns if one.key in SHOWN and any(row.cells[one.key].mean is not None for row in rows)]
    names = list(dict.fromkeys(row.model for row in rows if row.model != TRAINING_DATA))
    if not present or not names:
        return False
    across = min(3, len(present))
    down = -(-len(present) // across)
    figure = figure_of(3.9 * across, 2.9 * down + 0.22 * (-(-len(names) // 4)) + 0.2)
    panels = numpy.atleast_1d(figure.subplots(down, across)).flatten()
    counts = sorted({row.evaluations for row in rows if row.evaluations}) or [1]
    for axes, column in zip(panels, present, strict=False):
        for place, name in enumerate(names):
            _line(axes, [row for row in rows if row.model == name], column, place, counts)
        reference = next((row.cells[column.key].mean for row in rows if row.model == TRAINING_DATA), None)
        if reference is not None:
            axes.axhline(column.times * reference, color=INK, linestyle="--", linewidth=1)
        axes.set(xscale="log", xlabel="network evaluations", ylabel=column.title)
        if column.better == "lower":
            axes.set_yscale("symlog" if column.key == "kernel_distance" else "log")
            axes.yaxis.get_major_locator().set_params(numticks=7)  # a model far from the others would put a number at each power of ten
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.xaxis.minorticks_off()  # not those of y: within one power of ten a logarithmic axis has no others
        axes.grid(alpha=0.2)
    for axes in panels[len(present) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save_figure(figure, path)
    return True


def _line(axes: Any, rows: Sequence[Row], column: Column, place: int, counts: Sequence[int]) -> None:
    """Draw one model: a line over its numbers of evaluations with its spread, a dotted level for an exact map."""
    known = [(row.evaluations, row.cells[column.key]) for row in rows if row.cells[column.key].mean is not None]
    colour = f"C{place % 10}"
    exact = [cell for count, cell in known if count is None]
    mark, label = MARKS[(place // 10 + place) % len(MARKS)], plain(rows[0].model)
    if exact:
        assert exact[0].mean is not None
        axes.plot(
            counts, [column.times * exact[0].mean] * len(counts), ":", color=colour, marker=mark, markevery=[0], markersize=4, label=label
        )
        return
    x = [count for count, _ in known]
    y = [column.times * (cell.mean or 0.0) for _, cell in known]
    spread = [column.times * (cell.sd or 0.0) for _, cell in known]
    axes.errorbar(x, y, spread if any(spread) else None, fmt=f"{mark}-", color=colour, markersize=4, linewidth=1.2, label=label)
