"""Pictures of tables: the marginal of each column, and a corner plot of pairs of columns, with held-out data next to samples."""

import contextlib
import itertools
import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import matplotlib
import numpy
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from pushforward.column import Column
from pushforward.evaluation.associations import associations, strongest
from pushforward.evaluation.compared import Compared
from pushforward.evaluation.pictures import ACCENT, INK, SOFT, figure_of, plain

PANELS = 24  # marginals in one picture
SIDE = 7  # columns of a corner plot
POINTS = 1000  # points of each kind in a panel
LETTERS = 24  # of a column's name in a picture
NARROW = 15  # where panels are narrow
WORD = 14  # letters of a word
PALE = "#6d9bf5"  # points of samples, lighter than held-out ones in print without colours too
CJK = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei")


def marginals(columns: Sequence[Compared], panels: int = PANELS) -> tuple[Figure, str]:
    """Draw each column by itself; of many columns, those whose samples differ most from held-out data.

    Args:
        columns: the columns of held-out data and samples.
        panels: columns that are drawn at most.

    Returns:
        The figure and its caption.
    """
    shown, choice = list(columns), ""
    if len(columns) > panels:
        most = set(numpy.argsort([-one.difference() for one in columns], kind="stable")[:panels].tolist())
        shown = [one for k, one in enumerate(columns) if k in most]
        choice = f" Shown are the {panels} of {len(columns)} columns in which samples differ most from held-out data."
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure = figure_of(max(2.4 * across, 4.8), 1.9 * down + 0.4)
    with _fonts(shown):
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, one in zip(grid, shown, strict=False):
            _bars(axes, one) if one.words else _histogram(axes, one)
            axes.set_title(shortened(one.column.title), fontsize=9, color=INK)
            if max(one.missing()) > 0:
                axes.set_xlabel("missing: {:.0%}, samples {:.0%}".format(*one.missing()), fontsize=8, color=INK)
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
        if len(shown[0].real):
            _legend(figure, [Patch(facecolor=SOFT, alpha=0.6), Line2D([], [], color=ACCENT, linewidth=1.5)])
    return figure, f"Each column by itself: the share of held-out rows (grey) and of samples (blue) in each bin.{choice}"


def corner(columns: Sequence[Compared], train: Sequence[tuple[Column, Tensor]]) -> tuple[Figure, str]:
    """Draw each pair of columns, of at most 7: those of the strongest correlations in training data.

    Args:
        columns: the columns of held-out data and samples.
        train: the same columns of training data, as `columns_of` returns them, by which they are chosen.

    Returns:
        The figure and its caption.
    """
    shown, choice = list(columns), ""
    if len(columns) > SIDE:
        shown = [columns[k] for k in strongest(associations(train), SIDE)]
        choice = f" Shown are the {SIDE} of {len(columns)} columns with the strongest rank correlations in training data."
    side = len(shown)
    size = max(1.4 * side, 4.2)
    figure = figure_of(size, size)
    with _fonts(shown):
        grid: Any = figure.subplots(side, side, squeeze=False)
        for down, across in itertools.product(range(side), repeat=2):
            axes: Axes = grid[down, across]
            if across > down:
                axes.set_axis_off()
            elif across == down:
                _histogram(axes, shown[down])
            else:
                _scatter(axes, shown[across], shown[down])
            axes.tick_params(labelbottom=down == side - 1, labelleft=across == 0 and down > 0)
        for k, one in enumerate(shown):
            title = shortened(one.column.title, NARROW)
            grid[-1, k].set_xlabel(title, fontsize=8, color=INK)
            grid[k, 0].set_ylabel(title if k else "share", fontsize=8, color=INK)
        figure.align_labels()
        dots = [Line2D([], [], color=colour, marker="o", linestyle="", markersize=4) for colour in (INK, PALE)]
        if len(shown[0].real):
            _legend(figure, dots, loc="upper right")
    gaps = " A row is left out of the panels of a column whose value it lacks." if any(max(one.missing()) > 0 for one in shown) else ""
    return figure, f"Pairs of columns: held-out rows (dark) and samples (blue), at most {POINTS:,} of each.{gaps}{choice}"


def shortened(name: Any, most: int = LETTERS) -> str:
    """Return a name for a picture: in one line, its middle left out if it is long, without matplotlib's formulas."""
    text = " ".join(str(name).split())
    if _width(text) > most:
        head, tail = (len(_fitting(part, room)) for part, room in ((text, most // 2), (text[::-1], (most - 1) // 2)))
        text = f"{text[:head]}…{text[len(text) - tail :]}"
    return plain(text)


def _width(text: str) -> int:
    """Return how many letters a text is wide: Chinese characters and most emoji are two."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def _fitting(text: str, room: int) -> str:
    """Return the beginning of a text that is at most so many letters wide."""
    ends = itertools.takewhile(lambda end: _width(text[:end]) <= room, range(1, len(text) + 1))
    return text[: max(ends, default=0)]


def _histogram(axes: Axes, one: Compared) -> None:
    edges, (real, made) = one.bins(), one.shares()
    axes.stairs(real, edges, fill=True, color=SOFT, alpha=0.6)
    axes.stairs(made, edges, color=ACCENT, linewidth=1.5)
    _scale(axes, "x", one)
    axes.set_ylim(0, None)
    axes.set_yticks([])
    _plain(axes)


def _bars(axes: Axes, one: Compared) -> None:
    places = numpy.arange(len(one.words))
    real, made = one.shares()
    axes.barh(places - 0.2, real, 0.4, color=SOFT, alpha=0.6)
    axes.barh(places + 0.2, made, 0.4, color=ACCENT)
    axes.set_yticks(places, [shortened(word, WORD) for word in one.words])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    _plain(axes)


def _scatter(axes: Axes, across: Compared, up: Compared) -> None:
    """Draw both kinds of points in random order, so that neither hides the other; the fewer they are, the larger."""
    random = numpy.random.default_rng(0)
    points, colour, size = [], [], []
    for x, y, ink in ((across.real, up.real, INK), (across.made, up.made, PALE)):
        kept = numpy.flatnonzero(~numpy.isnan(x) & ~numpy.isnan(y))[:POINTS]
        spread = [0.5 * random.random(len(kept)) - 0.25 if one.words else 0.0 for one in (across, up)]  # words are single places
        points.append(numpy.stack((x[kept] + spread[0], y[kept] + spread[1]), axis=1))
        colour += [ink] * len(kept)
        size += [float(numpy.clip(1200 / max(len(kept), 1), 2, 12))] * len(kept)
    order = random.permutation(len(colour))
    x, y = numpy.concatenate(points)[order].T
    axes.scatter(x, y, s=numpy.array(size)[order], c=numpy.array(colour)[order].tolist(), alpha=0.75, linewidths=0)
    _scale(axes, "x", across)
    _scale(axes, "y", up)
    _plain(axes)


def _scale(axes: Axes, name: Literal["x", "y"], one: Compared) -> None:
    """Give an axis the limits, the scale and at most three ticks of a column."""
    low, high = one.limits
    axis = axes.xaxis if name == "x" else axes.yaxis
    if one.log_from is not None:
        above = one.limits[0] > 0
        options: dict[str, Any] = {} if above else {"linthresh": one.log_from, "linscale": 0.3}
        getattr(axes, f"set_{name}scale")("log" if above else "symlog", **options)
        axis.set_ticks(([] if above else [0.0]) + _log_ticks(one.log_from, high))
        axis.set_ticks([], minor=True)
    else:
        axis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10], integer=one.column.kind == "integer"))
    if one.words:
        axis.set_ticks(range(len(one.words)), [shortened(word, WORD) for word in one.words])
    else:
        axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    margin = 0.0 if one.words else 0.03
    ends = axis.get_transform().transform(numpy.array([low, high]))
    ends = axis.get_transform().inverted().transform(ends + margin * (ends[1] - ends[0]) * numpy.array([-1, 1]))
    getattr(axes, f"set_{name}lim")(*ends)
    if name == "x":
        axes.tick_params(axis="x", rotation=90 if one.words else 0)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return two or three round numbers of a logarithmic axis that spans at least a factor of 10."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [[m * 10.0**k for k in decades for m in multiples if low <= m * 10.0**k <= high] for multiples in ((1,), (1, 3), (1, 2, 5))]
    ticks = next(ticks for ticks in inside if len(ticks) > 1)
    return ticks[:: -(-len(ticks) // 3)]


def _number(value: float) -> str:
    """Return a tick's number: 1,500,000 as 1.5M."""
    if abs(value) >= 1e12:
        return f"{value:.3g}".replace("e+", "e")
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.4g}"


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7, labelcolor=INK, color=SOFT, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(SOFT)


def _legend(figure: Figure, handles: Sequence[Any], loc: Literal["upper right", "outside upper center"] = "outside upper center") -> None:
    figure.legend(handles, ["held-out data", "samples"], loc=loc, ncols=1 if loc == "upper right" else 2, frameon=False, fontsize=9)


@contextlib.contextmanager
def _fonts(columns: Sequence[Compared]) -> Iterator[None]:
    """Use fonts with Chinese and Japanese characters, if they are needed and installed, for what the first font does not have."""
    texts = "".join(f"{one.column.title}{''.join(one.words)}" for one in columns)
    installed = {font.name for font in font_manager.fontManager.ttflist} if max(map(ord, texts), default=0) >= 0x2E80 else set()
    with matplotlib.rc_context({"font.family": [*matplotlib.rcParams["font.family"], *(name for name in CJK if name in installed)]}):
        yield
