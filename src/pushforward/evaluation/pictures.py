"""Pictures of samples, trajectories and training, as PNG files without a display."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.evaluation.given import given
from pushforward.evaluation.quantise import quantise
from pushforward.families.checks import device_of
from pushforward.families.model import GenerativeModel
from pushforward.formats.files import write_atomically
from pushforward.functional.levels import Levels
from pushforward.guidance.guidance import Guidance

LARGEST = 16_000  # pixels of a picture's side, unless it has more itself
INK, ACCENT, SOFT = "#1f2933", "#2563eb", "#9aa5b1"
PANELS = 6  # of points on their way; more would have letters too small to read


def figure_of(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, to be saved without a display."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(text: str) -> str:
    """Return a text that matplotlib draws as it is, without the formulas that it reads between dollar signs."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically, in the format that the file's name ends in."""
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a script that no installed font has: a box is drawn
        write_atomically(path, lambda temporary: _draw_once(figure, temporary) if kind == "png" else figure.savefig(temporary, format=kind))


def _draw_once(figure: Figure, path: Path) -> None:
    """Write a PNG with the pixels of `Figure.savefig`, which draws twice, at first only for the layout that drawing finds by itself."""
    if rcParams["savefig.dpi"] != "figure":
        figure.set_dpi(rcParams["savefig.dpi"])
    FigureCanvasAgg(figure).print_png(path)


def greys(x: Tensor, levels: Levels) -> Tensor:
    """Return images (n, channels, height, width) in the data's units with values in [0, 1]: by their levels, or by the range of all."""
    x = x.detach().float().cpu()
    return quantise(x, levels) / (levels - 1) if isinstance(levels, int) else (x - x.amin()) / (x.amax() - x.amin()).clamp_min(1e-9)


def tiles(x: Tensor, levels: Levels, columns: int, gap: int = 1) -> numpy.ndarray:
    """Return images (n, channels, height, width) in the data's units as one picture (rows, columns, 3), values in [0, 1].

    Of volumes (n, channels, depth, height, width) it is the middle slice; of two channels the first.
    """
    x = greys(x if x.ndim == 4 else x[:, :, x.shape[2] // 2], levels)
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    n, _, height, width = x.shape
    rows = -(-n // columns)
    sheet = torch.ones(3, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for k, image in enumerate(x):
        top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet.permute(1, 2, 0).numpy()


def picture_of(x: Tensor, path: Path, *, labels: Tensor | None = None, levels: Levels = None, title: str = "", columns: int = 10) -> None:
    """Draw samples: images as a grid, volumes by their middle slice, series as curves, points by their first two features."""
    if x.ndim >= 4:
        _sheet(tiles(x, levels, columns), path, title)
        return
    if x.ndim == 3:
        _curves(x, columns, path, title)
        return
    figure = figure_of(5, 5)
    axes = figure.subplots()
    points = x.detach().float().cpu().flatten(1)
    second = points[:, 1] if points.shape[1] > 1 else torch.zeros(len(points))
    axes.scatter(points[:, 0], second, s=3, alpha=0.6, linewidths=0, **colours(labels))
    axes.set_aspect("equal", "datalim")
    axes.set_title(title, color=INK)
    save_figure(figure, path)


def _curves(x: Tensor, columns: int, path: Path, title: str = "", top: Sequence[str] = ()) -> None:
    """Draw series (n, channels, length), one panel each, with a curve a channel and the same scales."""
    rows = -(-len(x) // columns)
    figure = figure_of(max(5.0, 0.9 * columns), 0.7 * rows + (0.5 if title or top else 0.1))
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, one in itertools.zip_longest(panels, x.detach().float().cpu().mT):
        if one is not None:
            axes.plot(one, linewidth=0.8)
        axes.set_axis_off()
    for axes, name in zip(panels, top, strict=False):
        axes.set_title(name, fontsize=9, color=INK)
    figure.suptitle(title, color=INK, fontsize=11)
    save_figure(figure, path)


def colours(labels: Tensor | None) -> dict[str, Any]:
    """Return the arguments of matplotlib's scatter that colour points by their labels."""
    return {"color": INK} if labels is None else {"c": labels.cpu(), "cmap": "tab10"}


def _sheet(sheet: numpy.ndarray, path: Path, title: str, left: Sequence[str] = (), top: Sequence[str] = ()) -> None:
    """Draw a grid of images with row and column labels, about six pixels per image pixel, fewer where the grid is large."""
    height, width = sheet.shape[:2]
    scale = max(1.0, min(max(4.0, 700 / width), LARGEST / max(width, height))) / 150
    figure = figure_of(width * scale + (1.0 if left else 0.2), height * scale + (0.5 if title or top else 0.2))
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.set_yticks(_centres(height, len(left)), left)
    axes.set_xticks(_centres(width, len(top)), top)
    axes.xaxis.tick_top()
    axes.set_title(title, color=INK, fontsize=11)
    save_figure(figure, path)


def _centres(length: int, parts: int) -> list[float]:
    return [(k + 0.5) * length / parts - 0.5 for k in range(parts)]


@torch.no_grad()
def trajectory(
    model: GenerativeModel,
    path: Path,
    data: Any = None,
    *,
    seed: int = 0,
    times: int = 11,
    steps: int = 8,
    guidance: Guidance | float | None = None,
    pair: tuple[int, int] | None = None,
) -> None:
    """Draw trajectories from noise to data, one row per sample, with time to the right; a vector or image as condition is that of data.

    Those of a flow map are the states after each of 8 evaluations. Of vectors with a `pair` these two elements are drawn, on the model's
    scales; otherwise the first and the last, in the data's units.
    """
    n = min(10, model.classes or 8) if len(model.shape) > 1 else 1000
    cond = given(model, data, n, device_of(model))
    labels = None if model.classes is None else cond
    denoiser, (t_min, t_max) = model.denoiser(cond, guidance), model.interval  # type: ignore[operator, misc]
    generator = torch.Generator().manual_seed(seed)
    states, sampler = [model.base.sample(n, generator=generator)], model.sampler_of(steps)
    if sampler.jumps:
        visited = list(sampler.iterate(denoiser, states[0], t_max, t_min, generator))
        places, states = [t_max, *(float(one.t) for one in visited)], [*states, *(one.x for one in visited)]
    else:
        places = torch.linspace(t_max, t_min, times, dtype=torch.float64).tolist()
        for start, end in itertools.pairwise(places):
            states.append(sampler(denoiser, states[-1], start, end))
    shown = [(state if pair else model._from_model(state)).cpu() for state in states]
    across, up = pair or (0, -1)
    names = [f"t = {places[0]:.3g}", *(f"{place:.3g}" for place in places[1:])]
    if len(model.shape) > 1:
        rows = torch.stack(shown, dim=1).flatten(0, 1)
        if len(model.shape) == 2:
            _curves(rows, len(places), path, top=names)
            return
        sheet = tiles(rows, model.levels, len(places))
        _sheet(sheet, path, "", [] if labels is None else [str(int(k)) for k in labels], names)
        return
    panels = sorted({round(k * (len(places) - 1) / (PANELS - 1)) for k in range(PANELS)})
    figure = figure_of(2 * len(panels), 2.4)
    for axes, k in zip(figure.subplots(1, len(panels), sharex=True, sharey=True), panels, strict=True):
        state, name = shown[k], names[k]
        axes.scatter(state.flatten(1)[:, across], state.flatten(1)[:, up], s=1.5, linewidths=0, **colours(labels))
        axes.set_title(name, fontsize=9, color=INK)
        axes.set_axis_off()
    save_figure(figure, path)


def loss_curve(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw training and validation loss against the step."""
    figure = figure_of(6, 3.2)
    axes = figure.subplots()
    trained = [(row["step"], row["loss"]) for row in metrics if "loss" in row]
    judged = [(row["step"], row["validation_loss"]) for row in metrics if "validation_loss" in row]
    if trained:
        axes.plot(*zip(*trained, strict=True), color=SOFT, linewidth=1, label="training")
    if judged:
        axes.plot(*zip(*judged, strict=True), "o-", color=ACCENT, markersize=3, linewidth=1.2, label="validation, averaged weights")
    axes.set(xlabel="step", ylabel="loss")
    if all(loss > 0 for _, loss in trained + judged):  # a flow's loss, a density's logarithm, may have either sign
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis_format(FormatStrFormatter("%.2g"))
    if trained or judged:
        axes.legend(frameon=False)
    axes.grid(alpha=0.2)
    save_figure(figure, path)


def by_evaluations(
    model: GenerativeModel,
    evaluations: Sequence[int],
    path: Path,
    data: Any = None,
    *,
    seed: int = 0,
    guidance: Guidance | float | None = None,
) -> None:
    """Draw samples from the same noise at each number of network evaluations: one row per number; conditions as in `trajectory`."""
    n = model.classes or 10
    cond = given(model, data, n, device_of(model))
    made = [
        model.sample(n, cond, sampler=model.sampler_of(count), guidance=guidance, generator=torch.Generator().manual_seed(seed)).cpu()
        for count in evaluations
    ]
    _sheet(tiles(torch.cat(made), model.levels, n), path, "", [f"{count} evaluation{'s' * (count > 1)}" for count in evaluations])


def quality_curve(quality: Sequence[Any], reference: float, path: Path, unit: str = "") -> None:
    """Draw the distance to test data, in a unit that is named if given, and the share recognised, against network evaluations."""
    shares = [row.recognised for row in quality]
    panels = 2 if all(share is not None for share in shares) else 1
    figure = figure_of(3.4 * panels, 2.8)
    axes = numpy.atleast_1d(figure.subplots(1, panels))
    counts = [row.evaluations for row in quality]
    axes[0].errorbar(counts, [row.distance for row in quality], [row.distance_std for row in quality], fmt="o-", color=ACCENT, markersize=4)
    axes[0].axhline(reference, color=SOFT, linestyle="--", linewidth=1)
    axes[0].annotate("training data", (counts[-1], reference), ha="right", va="bottom", fontsize=8, color=INK)
    axes[0].set(ylabel="sliced Wasserstein to test" + (f"\n({unit})" if unit else ""), ylim=(0, None))
    if panels == 2:
        axes[1].plot(counts, [100 * share for share in shares], "o-", color=ACCENT, markersize=4)
        axes[1].set(ylabel="recognised, %", ylim=(min(90, *(100 * share for share in shares)) - 1, 100.5))
    for one in axes:
        one.set(xscale="log", xlabel="network evaluations")
        one.set_xticks(counts, [str(count) for count in counts])
        one.minorticks_off()
        one.grid(alpha=0.2)
    save_figure(figure, path)


def neighbours(samples: Tensor, train: Dataset, path: Path, *, count: int = 20) -> None:
    """Draw samples above their nearest training images, smallest distance first."""
    flat, reference = samples.flatten(1), train.x.flatten(1)
    distances = torch.cdist(flat, reference)
    nearest, which = distances.min(dim=1)
    chosen = nearest.argsort()[:count]
    _sheet(tiles(torch.cat((samples[chosen], train.x[which[chosen]])), train.levels, count), path, "", ["sample", "nearest in train"])
