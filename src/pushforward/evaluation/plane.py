"""The density of a model of the plane."""

import numpy
import torch
from torch import Tensor

from pushforward.families.model import GenerativeModel

CHUNK = 4096  # points whose density is computed together


@torch.no_grad()
def density(model: GenerativeModel, points: Tensor) -> Tensor:
    """Return the density (n,) of a model of the plane at points (n, 2): with classes, its mean over them."""
    classes = [None] if model.classes is None else range(model.classes)
    parts = []
    for rows in points.split(CHUNK):
        each = [model.log_prob(rows, None if k is None else torch.full((len(rows),), k, device=rows.device)).exp() for k in classes]
        parts.append(torch.stack(each).mean(0))
    return torch.cat(parts)


def grid_of(low: Tensor, high: Tensor, side: int) -> tuple[Tensor, tuple[float, float, float, float]]:
    """Return a grid of points (side², 2), rows from below, between two corners (2,), and its extent (left, right, bottom, top)."""
    across, up = (numpy.linspace(float(a), float(b), side) for a, b in zip(low, high, strict=True))
    points = torch.tensor(numpy.stack(numpy.meshgrid(across, up), -1).reshape(-1, 2))
    return points, (across[0], across[-1], up[0], up[-1])
