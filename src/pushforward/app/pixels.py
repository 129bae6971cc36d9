"""Uploaded images in the units of an image model: read, interpolated through its latents."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from pushforward._images import in_8_bits, opened
from pushforward.app.asked import EACH, condition, integer
from pushforward.app.loaded import Loaded
from pushforward.app.pictures import enlarged
from pushforward.editing.latents import interpolate
from pushforward.errors import NotInvertibleError, UserError
from pushforward.evaluation.pictures import tiles
from pushforward.evaluation.quantise import quantise
from pushforward.families.checks import device_of
from pushforward.families.continuous_flow import ContinuousFlow
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.functional.levels import cells
from pushforward.samplers.heun import Heun

MOST_PIXELS = 25_000_000  # of an uploaded image
STEPS = 20  # of Heun's method between an image and its latents
Upload = Any  # the path of a file, a PIL image, or None


def image_of(upload: Upload, what: str = "the image") -> PIL.Image.Image:
    """Return an uploaded image of any mode upright in RGB with 8 bits; transparent parts are white.

    Raises:
        UserError: nothing was uploaded, it cannot be read, or it has too many pixels.
    """
    if upload is None:
        raise UserError(f"{what} is missing; upload one, or take one of the test set.")
    if isinstance(upload, PIL.Image.Image):
        return _checked(upload, what)
    try:
        with opened(Path(upload)) as image:
            return _checked(image, what)
    except UserError as error:
        raise UserError(f"{what}: {error}" if not str(error).startswith(what) else str(error)) from None
    except Exception:  # PIL raises many exception types, among them SyntaxError and struct.error
        raise UserError(f"{what} cannot be read as an image; upload a PNG, JPEG or WebP.") from None


def _checked(image: PIL.Image.Image, what: str) -> PIL.Image.Image:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UserError(f"{what} has {width} x {height} pixels, more than {MOST_PIXELS:,}; upload a smaller one.")
    return in_8_bits(image, "RGB")


def event_of(loaded: Loaded, upload: Upload, inverted: bool = False, what: str = "the image") -> Tensor:
    """Return an image as one event (1, *shape) of a model: its middle, resized, in the model's channels and levels.

    Raises:
        UserError: it cannot be read, or the model's images have no levels, so that white has no number.
    """
    levels, (channels, height, width) = _levels(loaded), loaded.model.shape
    image = image_of(upload, what)
    image = PIL.ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (width, height), PIL.Image.Resampling.BOX)
    pixels = torch.from_numpy(numpy.array(image)).float().view(height, width, channels).movedim(-1, 0) / 255
    pixels = 1 - pixels if inverted else pixels
    return (pixels * (levels - 1)).round()[None].to(device_of(loaded.model), loaded.model.dtype)


def _levels(loaded: Loaded) -> int:
    levels = loaded.model.levels
    if loaded.kind != "images" or not isinstance(levels, int):
        raise UserError(f"{loaded.name} has no images of levels 0, 1, ..., so no number of it is white; use a run on images.")
    return levels


def from_test(loaded: Loaded, number: Any) -> PIL.Image.Image:
    """Return an image of the run's test set, enlarged.

    Raises:
        UserError: there is no such image.
    """
    data = loaded.tested
    if data is None:
        raise UserError(f"the test data of {loaded.name} cannot be read here; upload an image instead.")
    k = integer("the number of the test image", number, 0, len(data) - 1)
    return shown(loaded, data.x[k : k + 1])


def shown(loaded: Loaded, x: Tensor, columns: int | None = None) -> PIL.Image.Image:
    """Return images (n, *shape) as one enlarged picture, whose pixels are squares: resized back it is the same."""
    return enlarged(tiles(quantise(x, loaded.model.levels), loaded.model.levels, columns or len(x)), 40)


def quick(model: GenerativeModel) -> GenerativeModel:
    """Return the same model with few steps of a fixed size as its sampler, so that a visitor waits for seconds, if it solves an ODE."""
    if not isinstance(model, PathModel | ContinuousFlow | FlowMap):
        return model
    other = copy.copy(model)  # shares its parts; only the attribute is another
    other.sampler = Heun(STEPS)
    return other


def interpolated(
    loaded: Loaded, a: Upload, b: Upload, steps: Any = 8, label: Any = EACH, kind: str = "spherical", inverted: bool = False
) -> Iterator[PIL.Image.Image]:
    """Yield the two images as the model reads them, and then the images between them, through its latents.

    Raises:
        NotInvertibleError: the model cannot encode.
        UserError: an image cannot be read.
    """
    model = loaded.model
    if not loaded.encodes:
        raise NotInvertibleError(f"{loaded.name} cannot encode images exactly, so there are no points between two of them; use a flow.")
    count = integer("the number of images", steps, 3, 16)
    if kind not in ("spherical", "linear"):
        raise UserError(f"the kind is {kind!r}, but it is 'spherical' or 'linear'.")
    first, second = event_of(loaded, a, inverted, "the first image"), event_of(loaded, b, inverted, "the second image")
    yield shown(loaded, torch.cat((first, second)))
    half = 0.5 * cells(model.levels, first)
    made = interpolate(quick(model), first + half, second + half, count, condition(loaded, label, 1), kind=kind)[0]  # type: ignore[arg-type]
    yield shown(loaded, made.cpu(), columns=min(count, 8))
