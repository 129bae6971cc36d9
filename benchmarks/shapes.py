"""Captioned pictures drawn in code, for studies that need no download: "a red circle at the top left", on a shaded background.

A caption leaves open the size, the exact place and the background, so that a model has a distribution to learn for each of the 72
captions, and whether a picture shows its caption can be decided by its nearest neighbour.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import pushforward as pf

COLOURS = {"red": "#e02020", "green": "#20a040", "blue": "#2050e0", "yellow": "#f0d020", "white": "#f8f8f8", "purple": "#a030c0"}
FORMS = ("circle", "square", "triangle")
PLACES = {"top left": (0.3, 0.3), "top right": (0.7, 0.3), "bottom left": (0.3, 0.7), "bottom right": (0.7, 0.7)}
CAPTIONS = list(itertools.product(COLOURS, FORMS, PLACES))
WORDS = [*COLOURS, *FORMS, *PLACES]
TEXT = [pf.sd3.TextPart("words", tokens=(0, 3), channels=(0, len(WORDS)), pooled=(0, len(WORDS)))]
FINE = 4  # drawn this many times larger, then averaged


@dataclass(frozen=True)
class Shapes:
    """Pictures (n, 3, side, side) in [-1, 1] and the number of the caption of each, (n,)."""

    x: Tensor
    captions: Tensor


@functools.cache  # the studies share sets
def drawn(each: int, side: int, seed: int) -> Shapes:
    """Return `each` pictures of every caption."""
    random = numpy.random.default_rng(seed)
    pictures = [_picture(caption, side, random) for _ in range(each) for caption in CAPTIONS]
    x = torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return Shapes(x.contiguous(), torch.arange(len(CAPTIONS)).repeat(each))


def _picture(caption: tuple[str, str, str], side: int, random: numpy.random.Generator) -> numpy.ndarray:
    colour, form, place = caption
    size = side * FINE
    angle, low, high = random.uniform(0, 2 * numpy.pi), *sorted(random.uniform(0.1, 0.3, 2))
    along = numpy.linspace(-1, 1, size)
    slope = (numpy.cos(angle) * along[None, :] + numpy.sin(angle) * along[:, None]) / 2**1.5 + 0.5
    grey = (255 * (low + (high - low) * slope)).astype(numpy.uint8)
    image = Image.fromarray(grey).convert("RGB")
    x, y = (numpy.array(PLACES[place]) + random.uniform(-0.04, 0.04, 2)) * size
    r = random.uniform(0.16, 0.24) * size
    draw = ImageDraw.Draw(image)
    if form == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    elif form == "square":
        draw.rectangle((x - r * 0.89, y - r * 0.89, x + r * 0.89, y + r * 0.89), fill=COLOURS[colour])  # the area of the circle
    else:
        draw.polygon([(x, y - 1.3 * r), (x - 1.2 * r, y + r), (x + 1.2 * r, y + r)], fill=COLOURS[colour])
    return numpy.asarray(image.resize((side, side), Image.Resampling.BOX))


def texts(captions: Tensor) -> pf.TextContext:
    """Return what a model reads of captions: a token for each of the three words, one-hot and of mean square 1, and their sum."""
    numbers = [[WORDS.index(word) for word in caption] for caption in CAPTIONS]
    tokens = torch.eye(len(WORDS))[torch.tensor(numbers)[captions]] * len(WORDS) ** 0.5
    return pf.TextContext(tokens, tokens.sum(dim=1) / 3**0.5)


def right(pictures: Tensor, captions: Tensor, known: Shapes) -> float:
    """Return the share of pictures whose nearest known picture has their caption."""
    nearest = torch.cdist(pictures.flatten(1), known.x.flatten(1)).argmin(dim=1)
    return float((known.captions[nearest] == captions).double().mean())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return 2 E|x - y| - E|x - x'| - E|y - y'| of two sets of pictures, per root of their number of values (unbiased).

    It is 0 in expectation only for equal distributions (Szekely and Rizzo, 2013), and may be below 0 by chance.
    """
    x, y = x.flatten(1).double(), y.flatten(1).double()
    within = [torch.cdist(one, one).sum() / (len(one) * (len(one) - 1)) for one in (x, y)]
    return float((2 * torch.cdist(x, y).mean() - sum(within)) / x.shape[1] ** 0.5)
