"""PIL images of any mode as upright images of 8 bits: the only way in which data sets and Stable Diffusion 3 read pictures.

| mode | read as |
|---|---|
| 1, L, RGB, RGBX | as stored; a 1 is 255 |
| P | the colours of its palette |
| LA, La, RGBA, RGBa, PA, and 1, L, P, RGB, I;16 with a transparent colour | composited over a background |
| I;16, I;16L, I;16B, I;16N, I | 0 is black and 65535 white, as in PNG, TIFF and PGM of 16 bits |
| F | 0 is black and 1 white |
| CMYK, YCbCr, HSV, LAB | converted to RGB by PIL, without colour profiles |

Numbers outside the range of I and F are an error: they leave open which number is white. Greyscale is the luma of ITU-R 601. A photograph
is turned as its EXIF orientation states, and of an animation the frame at which the image is opened is read, the first one of a file.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy
from PIL import Image, ImageOps

from pushforward._files import regular
from pushforward.errors import UserError

WHITE, BLACK = 255, 0
ROUNDING = 1e-3  # what resizing in floats may add to the range
Mode = Literal["RGB", "L"]


@contextlib.contextmanager
def opened(file: Path | IO[bytes]) -> Iterator[Image.Image]:
    """Open an image file of any format that PIL reads without other programs; it is closed afterwards.

    Raises:
        UserError: it is a pipe or device, has more pixels than PIL.Image.MAX_IMAGE_PIXELS (where PIL warns, and may need gigabytes), or is
            PostScript, which PIL gives to Ghostscript to run.

    Pillow 13 maps an uncompressed TIFF that it opens by its path, and then turns it with sides swapped; an open file is never mapped.
    """
    with contextlib.ExitStack() as stack:
        content = stack.enter_context(regular(file, UserError).open("rb")) if isinstance(file, Path) else file
        image = stack.enter_context(Image.open(content))
        _check_opened(image)
        yield image


def _check_opened(image: Image.Image) -> None:
    width, height = image.size
    if image.format == "EPS":
        raise UserError("it is a PostScript program, which is not run; convert it to PNG.")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise UserError(f"it has {width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS, {Image.MAX_IMAGE_PIXELS}; resize it.")


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation states, without that tag; as it is stored if its EXIF is damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # PIL raises many exception types, among them SyntaxError; the pixels are intact
        return image


def in_8_bits(image: Image.Image, mode: Mode, background: int = WHITE) -> Image.Image:
    """Return an image of any mode upright, in 8 bits.

    Args:
        image: the image; it is not changed.
        mode: "RGB", or "L" for greyscale.
        background: grey that transparent parts show, from 0 (black) to 255 (white).

    Raises:
        UserError: it holds numbers outside the range of its mode.
    """
    image = upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _from_numbers(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    if mode == "L" and image.mode in ("LAB", "HSV", "CMYK"):
        image = image.convert("RGB")
    return image.convert(mode)


def _from_numbers(image: Image.Image) -> Image.Image:
    """Return an image of 16 or 32 bits a pixel in mode L, or LA if one of its numbers is transparent."""
    numbers, top = numpy.asarray(image), 1 if image.mode == "F" else 65535
    check_range(f"the image of mode {image.mode}", float(numbers.min()), float(numbers.max()), top)
    grey = Image.fromarray((numbers * (255 / top)).round().clip(0, 255).astype(numpy.uint8))
    if image.info.get("transparency") is not None:
        grey.putalpha(Image.fromarray(numpy.where(numbers == image.info["transparency"], 0, 255).astype(numpy.uint8)))
    return grey


def check_range(what: str, low: float, high: float, top: float) -> None:
    """Raise an error unless the smallest and the largest number of an image are in [0, top], up to rounding.

    Raises:
        UserError: they are not, or one of them is NaN.
    """
    if not (low >= -ROUNDING and high <= top + ROUNDING):
        raise UserError(f"{what} has numbers from {low:g} to {high:g}, but they must be from 0 (black) to {top:g} (white); rescale them.")
