"""A picture of the density of a model of the plane."""

from pathlib import Path

from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.evaluation.pictures import figure_of, save_figure
from pushforward.evaluation.plane import density, grid_of
from pushforward.families.checks import device_of
from pushforward.families.model import GenerativeModel

SIDE, SHOWN = 120, 500


def has_density(model: GenerativeModel) -> bool:
    """Return whether the density of a model of the plane can be drawn: one that needs no condition but a class."""
    return model.shape == (2,) and "log_prob" in model.verbs and model.levels is None and model.conditioning.shape is None


def picture_density(model: GenerativeModel, data: Dataset, path: Path) -> None:
    """Draw the density of a model of the plane, with held-out points, into a PNG file."""
    low, high = _window(data.x)
    points, extent = grid_of(low, high, SIDE)
    values = density(model, points.to(device_of(model), model.dtype)).view(SIDE, SIDE).cpu()
    figure = figure_of(6.2, 5)
    axis = figure.subplots()
    image = axis.imshow(values, origin="lower", extent=extent, aspect="auto", cmap="magma", vmin=0)
    axis.scatter(data.x[:SHOWN, 0].cpu().numpy(), data.x[:SHOWN, 1].cpu().numpy(), s=3, linewidths=0, color="white", alpha=0.6)
    axis.set(xlim=extent[:2], ylim=extent[2:])
    figure.colorbar(image, ax=axis, label="density")
    save_figure(figure, path)


def _window(points: Tensor) -> tuple[Tensor, Tensor]:
    low, high = points.min(0).values.cpu(), points.max(0).values.cpu()
    return low - 0.15 * (high - low), high + 0.15 * (high - low)
