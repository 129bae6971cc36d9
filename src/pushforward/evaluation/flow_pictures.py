"""Pictures of a 2-D flow layer by layer: noise, a grid, and the density."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from pushforward.bijections.chain import Chain
from pushforward.errors import UserError
from pushforward.evaluation.pictures import ACCENT, INK, colours, figure_of, save_figure
from pushforward.evaluation.plane import density, grid_of
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.registry import export

MOST = 7  # number of panels


def has_layers(model: Any) -> TypeGuard[NormalizingFlow]:
    """Return whether the model can be drawn: a chain of bijections of the plane."""
    return isinstance(model, NormalizingFlow) and model.shape == (2,) and isinstance(model.bijection, Chain)


@export("evaluation.picture_layers")
@torch.no_grad()
def picture_layers(model: NormalizingFlow, path: Path, *, seed: int = 0) -> None:
    """Draw a two-dimensional flow from noise to data: samples on top, a square grid of noise below, the density at the end.

    With classes, samples and density cover all classes equally, and the grid shows the first.

    Args:
        model: a normalizing flow with `shape` (2,) and a `Chain`.
        path: output file.
        seed: of the 2,000 samples.

    Returns:
        None; the picture is written to the file.

    Raises:
        UserError: the model is not such a flow.
    """
    if not has_layers(model):
        raise UserError(
            f"{type(model).__name__} of shape {model.shape} has no layers to draw; it must be a flow of the plane with a Chain."
        )
    noise = model.base.sample(2000, generator=torch.Generator().manual_seed(seed))
    labels = None if model.classes is None else torch.arange(len(noise), device=noise.device) % model.classes
    lines = _grid(noise)
    samples = _states(model, noise, labels)
    grids = _states(model, lines.flatten(0, 1), None if labels is None else labels.new_zeros(lines.shape[:2].numel()))
    shown = sorted({round(k * (len(samples) - 1) / (MOST - 1)) for k in range(MOST)})
    figure = figure_of(2.1 * (len(shown) + 1), 4.4)
    axes = figure.subplots(2, len(shown) + 1)
    names = {0: "noise", len(samples) - 1: "data"}
    for column, k in enumerate(shown):
        low, high = _window(samples[k])
        axes[0, column].scatter(*samples[k].T, s=1.2, linewidths=0, **colours(labels))
        axes[0, column].set_title(names.get(k, f"after {k} of {len(samples) - 1}"), fontsize=9, color=INK)
        for family in (grids[k].view(lines.shape), grids[k].view(lines.shape).transpose(0, 1)):
            for line in family:
                axes[1, column].plot(*line.T, color=ACCENT, linewidth=0.5)
        for row in (0, 1):
            axes[row, column].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    low, high = _window(samples[-1])
    plane, extent = grid_of(low, high, 120)
    axes[0, -1].imshow(density(model, plane.to(noise)).view(120, 120).cpu(), origin="lower", extent=extent, aspect="auto", cmap="magma")
    axes[0, -1].set_title("density", fontsize=9, color=INK)
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
    axes[1, -1].set_axis_off()
    save_figure(figure, path)


def _states(model: Any, noise: Tensor, cond: Any) -> list[Tensor]:
    """Return the points (n, 2) at the start, after each step of the inverse chain, and in the data's units."""
    states = [noise]
    for step in reversed(model.bijection.steps):
        states.append(step.inverse(states[-1], cond)[0])
    states[-1] = model._from_model(states[-1])
    return [state.cpu() for state in states]


def _grid(like: Tensor, half: float = 2.5, lines: int = 21, points: int = 21) -> Tensor:
    """Return the crossings (lines, points, 2) of a square grid of noise."""
    axis = torch.linspace(-half, half, lines, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)


def _window(points: Tensor) -> Sequence[Tensor]:
    low, high = points.quantile(0.005, 0), points.quantile(0.995, 0)
    margin = 0.12 * (high - low)
    return low - margin, high + margin
