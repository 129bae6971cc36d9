"""Samples as pictures for the page: PIL images, in colours that suit a light and a dark page."""

import math
from collections.abc import Sequence
from typing import Any

import numpy
import PIL.Image
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from pushforward.app.loaded import Loaded
from pushforward.evaluation.pictures import ACCENT, INK, SOFT, colours, tiles

WIDE = 640  # pixels of a picture's longer side, about
Window = tuple[tuple[float, float], tuple[float, float]]


def picture_of(loaded: Loaded, x: Tensor, labels: Tensor | None = None, window: Window | None = None) -> PIL.Image.Image:
    """Return samples (n, *shape) in the data's units as one picture: a grid of images, curves, or points by their first two features."""
    if x.ndim >= 4:
        return enlarged(tiles(x, loaded.model.levels, columns_of(len(x))))
    if x.ndim == 3:
        return _curves(x)
    schema = loaded.model.schema
    names = () if schema is None or loaded.kind == "plane" else schema.names[:2]
    return points(x, labels if labels is not None and labels.ndim == 1 and not labels.is_floating_point() else None, window, names)


def columns_of(n: int) -> int:
    """Return the number of columns of a grid of n images: nearly as wide as high, and 10 for the ten classes of a usual data set."""
    return n if n <= 5 else 10 if n % 10 == 0 and n <= 40 else math.ceil(math.sqrt(n))


def enlarged(sheet: numpy.ndarray, most: int = 16) -> PIL.Image.Image:
    """Return a picture (height, width, 3) with values in [0, 1], its pixels drawn as squares so that it is about `WIDE` wide."""
    image = PIL.Image.fromarray((sheet * 255).round().clip(0, 255).astype(numpy.uint8))
    factor = max(1, min(most, WIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), PIL.Image.Resampling.NEAREST)


def points(x: Tensor, labels: Tensor | None = None, window: Window | None = None, names: Sequence[str] = ()) -> PIL.Image.Image:
    """Return a scatter plot of points (n, features) by their first two features, with the names of these."""
    figure, axes = _figure()
    flat = x.detach().float().cpu().flatten(1)
    second = flat[:, 1] if flat.shape[1] > 1 else torch.zeros(len(flat))
    axes.scatter(flat[:, 0], second, s=4, alpha=0.65, linewidths=0, **colours(labels))
    _framed(axes, window or window_of(flat))
    for name, label in zip(names, (axes.set_xlabel, axes.set_ylabel), strict=False):
        label(name, fontsize=9, color=INK)
    return _drawn(figure)


def window_of(x: Tensor) -> Window:
    """Return the ranges of the first two features of points (n, features), with a margin, without the outermost points."""
    flat = x.detach().float().cpu().flatten(1)
    flat = flat[flat.isfinite().all(1)]
    ranges = []
    for k in (0, min(1, flat.shape[1] - 1)):
        low, high = (float(flat[:, k].quantile(q)) for q in (0.005, 0.995)) if len(flat) else (-1.0, 1.0)
        margin = 0.15 * (high - low) or 1.0
        ranges.append((low - margin, high + margin))
    return ranges[0], ranges[1]


def joined(a: Window, b: Window) -> Window:
    """Return the smallest window that holds two, so that a picture keeps its scale from noise to data."""
    (across, up) = ((min(one[0], other[0]), max(one[1], other[1])) for one, other in zip(a, b, strict=True))
    return across, up


def density_picture(density: Tensor, window: Window) -> PIL.Image.Image:
    """Return a density (height, width) on a window as a heat map."""
    figure, axes = _figure()
    (left, right), (low, high) = window
    axes.imshow(density.cpu(), origin="lower", extent=(left, right, low, high), aspect="auto", cmap="magma", interpolation="bilinear")
    _framed(axes, window)
    return _drawn(figure)


def lines_picture(lines: Tensor, window: Window | None = None) -> PIL.Image.Image:
    """Return a grid's crossings (rows, columns, 2) with the lines between them."""
    figure, axes = _figure()
    for family in (lines.cpu(), lines.cpu().transpose(0, 1)):
        for line in family:
            axes.plot(*line.T, color=ACCENT, linewidth=0.7)
    _framed(axes, window or window_of(lines.flatten(0, 1)))
    return _drawn(figure)


def histogram(values: Sequence[float], here: float, title: str = "bits/dim") -> PIL.Image.Image:
    """Return the distribution of test examples with the place of one value in it."""
    figure, axes = _figure(6.4, 3.0)
    axes.hist(values, bins=min(24, max(4, len(values) // 3)), color=SOFT)
    axes.axvline(here, color=ACCENT, linewidth=2)
    axes.set_xlabel(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks([])
    return _drawn(figure)


def _curves(x: Tensor) -> PIL.Image.Image:
    columns = columns_of(len(x))
    figure = Figure(figsize=(6.4, max(1.2, 1.0 * -(-len(x) // columns))), dpi=100, layout="constrained")
    for axes, one in zip(figure.subplots(-(-len(x) // columns), columns, squeeze=False).flat, x.detach().float().cpu().mT, strict=False):
        axes.plot(one, linewidth=0.8)
        axes.set_axis_off()
    return _drawn(figure)


def _figure(width: float = 5.2, height: float = 5.2) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    return figure, figure.subplots()


def _framed(axes: Any, window: Window) -> None:
    axes.set(xlim=window[0], ylim=window[1])
    axes.tick_params(labelsize=8, labelcolor=INK, color=SOFT)
    for spine in axes.spines.values():
        spine.set_color(SOFT)


def _drawn(figure: Figure) -> PIL.Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return PIL.Image.fromarray(numpy.asarray(canvas.buffer_rgba())).convert("RGB")
