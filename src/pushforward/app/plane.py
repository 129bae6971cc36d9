"""Models of the plane: their density, and how they deform a grid of noise."""

from collections.abc import Iterator

import numpy
import torch
from torch import Tensor

from pushforward.app.asked import EACH, Asked, asked, condition
from pushforward.app.loaded import Loaded
from pushforward.app.pictures import Window, window_of
from pushforward.app.states import Frame, states
from pushforward.errors import NotInvertibleError
from pushforward.evaluation.plane import density
from pushforward.families.checks import device_of

SIDES = (32, 96)  # a coarse density first, then a fine one
CHUNK = 2048  # points whose log_prob is computed together, after which the visitor can cancel
LINES, HALF = 21, 2.5  # lines of the grid, and where they end in deviations of the noise


def window(loaded: Loaded, settings: Asked) -> Window:
    """Return the window of the data: that of test examples, or of samples where there are none."""
    if loaded.tested is not None:
        return window_of(loaded.tested.x)
    *_, last = states(loaded.model, loaded.model._base_sample(200, None, None), Asked(200, cond=condition(loaded, EACH, 200)))
    return window_of(last.x)


@torch.no_grad()
def densities(loaded: Loaded, label: object = EACH) -> Iterator[tuple[Tensor, Window, float]]:
    """Yield the density (side, side) of the plane, coarse and then finer, with its window and the share that is done.

    With classes and none of them chosen it is the mean over the classes.

    Raises:
        NotInvertibleError: the model has no log_prob.
    """
    if not loaded.has_density:
        raise NotInvertibleError(f"{loaded.name} has no log_prob, so there is no density to draw; use its samples.")
    model, settings = loaded.model, asked(loaded, 1, label=label)
    view = window(loaded, settings)
    every = label in (None, EACH) and bool(model.classes)
    for k, side in enumerate(SIDES):
        across, up = (numpy.linspace(low, high, side) for low, high in view)
        plane = torch.tensor(numpy.stack(numpy.meshgrid(across, up), -1).reshape(-1, 2)).to(device_of(model), model.dtype)
        parts = []
        for start in range(0, len(plane), CHUNK):
            rows = plane[start : start + CHUNK]
            parts.append(density(model, rows) if every else model.log_prob(rows, condition(loaded, label, len(rows))).exp())
        yield torch.cat(parts).view(side, side).cpu(), view, (k + 1) / len(SIDES)


def grids(loaded: Loaded, settings: Asked) -> Iterator[tuple[Tensor, Frame]]:
    """Yield a square grid of noise (LINES, LINES, 2) and what the model makes of it, after each step."""
    model = loaded.model
    scale = float(model._base_sample(2000, None, torch.Generator().manual_seed(0)).std())
    axis = torch.linspace(-HALF * scale, HALF * scale, LINES, dtype=model.dtype, device=device_of(model))
    noise = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
    cond = settings.cond
    if cond is not None:
        cond = cond[:1].expand(len(noise), *cond.shape[1:])
    several = Asked(len(noise), settings.seed, cond, settings.sampler, settings.guidance)
    for frame in states(model, noise, several, generator=torch.Generator().manual_seed(settings.seed)):
        yield frame.x.view(LINES, LINES, 2), frame
