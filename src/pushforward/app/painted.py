"""A part of an image drawn again: what is painted over is sampled given the rest, by guidance with a measurement."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import PIL.Image
import torch
from torch import Tensor

from pushforward.app.asked import Asked
from pushforward.app.loaded import Loaded
from pushforward.app.pixels import event_of, image_of
from pushforward.app.states import Frame, states
from pushforward.errors import UserError
from pushforward.families.path_model import PathModel
from pushforward.guidance.mmps import MMPS
from pushforward.measurements.mask import Mask
from pushforward.samplers.euler_maruyama import EulerMaruyama
from pushforward.samplers.grids import LogSNR
from pushforward.samplers.sampler import Sampler

COVERED = 0.25  # share of a pixel that has to be painted over
NOISE = 0.01  # deviation with which the rest is met, as a share of the levels
STEPS = 30


def mask_of(loaded: Loaded, layers: Any) -> Tensor:
    """Return which pixels (height, width) are painted over in any layer of an editor.

    Raises:
        UserError: none is, or all are.
    """
    _, height, width = loaded.model.shape
    painted = torch.zeros(height, width, dtype=torch.bool)
    for layer in layers or ():
        image = layer if isinstance(layer, PIL.Image.Image) else PIL.Image.open(layer)
        covered = image.convert("RGBA").getchannel("A").resize((width, height), PIL.Image.Resampling.BOX)
        painted |= torch.from_numpy(numpy.array(covered)) > 255 * COVERED
    if not bool(painted.any()):
        raise UserError("nothing is painted over; draw with the brush over the part that is to be sampled.")
    if bool(painted.all()):
        raise UserError("the whole image is painted over, so nothing is left to go by; leave a part of it, or use the tab of samples.")
    return painted


def repainted(loaded: Loaded, edited: Any, settings: Asked, inverted: bool = False) -> Iterator[tuple[Frame, Tensor]]:
    """Yield frames of samples whose painted part is new, and the image (1, *shape) without it; the last keeps the rest exactly.

    Raises:
        UserError: there is no image, or no part of it is painted over; the model is not on a path from Gaussian noise.
    """
    model = loaded.model
    if not loaded.paints or not isinstance(model, PathModel) or not isinstance(model.levels, int):
        raise UserError(f"{loaded.name} cannot draw parts of images again; use a model of images on a path, such as rectified_flow.")
    if not isinstance(edited, Mapping) or edited.get("background") is None:
        raise UserError("the image is missing; upload one, or take one of the test set.")
    image_of(edited["background"])
    x, painted = event_of(loaded, edited["background"], inverted), mask_of(loaded, edited.get("layers")).to(model.units.like.device)
    y = torch.where(painted, torch.nan, x)
    guidance = MMPS(Mask(noise=NOISE * (model.levels - 1)), y.expand(settings.n, *y.shape[1:]), guidance=settings.guidance)
    own = Asked(settings.n, settings.seed, settings.cond, _sampler(model, settings.sampler), None, settings.temperature, settings.slides)
    generator = torch.Generator().manual_seed(settings.seed)
    noise = model._base_sample(own.n, own.cond, generator)
    for frame in states(model, noise, own, guidance, generator):
        yield (frame._replace(x=torch.where(painted, frame.x, x + 0.5)) if frame.last else frame), y


def _sampler(model: PathModel, chosen: Sampler | None) -> Sampler:
    """Return a stochastic sampler, whose later steps correct earlier ones, unless another one is chosen."""
    if chosen is not None:
        return chosen
    low, high = model.interval
    t = torch.tensor([low + (high - low) / STEPS], dtype=torch.float64)
    noisy = float(model.path.sigma(t) / torch.hypot(model.path.alpha(t), model.path.sigma(t))) > 0.3
    return EulerMaruyama(STEPS, grid=LogSNR()) if noisy else EulerMaruyama(STEPS)
