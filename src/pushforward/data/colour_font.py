"""Glyphs of colour fonts as pictures, drawn by Pillow: bitmaps (CBDT, sbix) at the size they are stored in, layers (COLR 0) at any."""

import io
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageDraw, ImageFont, features

from pushforward._files import bytes_of
from pushforward.errors import DataError

SCALABLE = 128  # pixels of an em of layered glyphs
ONE_GLYPH = 1.4  # a sequence is one glyph if it is not wider than this many of its first
LARGEST = 1 << 22  # pixels of a glyph
LARGEST_FONT = 256 << 20  # bytes
INVISIBLE = {0xFE0F, 0x200D, *range(0xE0020, 0xE0080)}  # a variation selector, a joiner and tags: they only choose glyphs


class ColourFont:
    """A colour font.

    Args:
        path: a .ttf or .otf file.

    Raises:
        DataError: the file is no font, or one without coloured glyphs that Pillow draws.
    """

    def __init__(self, path: Path) -> None:
        from fontTools.ttLib import TTFont  # importing it takes 0.1 s, which other data sets avoid

        try:
            content = bytes_of(path, DataError, LARGEST_FONT)
            with TTFont(io.BytesIO(content), lazy=True) as tables:
                size, self.code_points = _size(tables), frozenset(tables.getBestCmap() or ())
            self.shapes_sequences = bool(features.check("raqm"))
            engine = ImageFont.Layout.RAQM if self.shapes_sequences else ImageFont.Layout.BASIC
            font = None if size is None else ImageFont.truetype(io.BytesIO(content), size, layout_engine=engine)
        except Exception as error:  # fontTools raises many exception types for damaged files
            raise DataError(f"{path} cannot be read as a font ({error}); give a colour font such as NotoColorEmoji.ttf.") from None
        if font is None:
            raise DataError(
                f"{path} has no coloured glyphs that are drawn here (tables CBDT, sbix, or COLR of version 0); give another font."
            )
        self._font = font
        ascent, descent = self._font.getmetrics()
        self.height = ascent + descent

    def picture(self, text: str, background: tuple[int, int, int]) -> Image.Image | None:
        """Return the one glyph of a text on a background, cropped to what is drawn, or None if the font does not draw it."""
        try:
            return self._drawn(text, background) if self._joins(text) else None
        except (OSError, RuntimeError, ValueError):  # of FreeType and raqm, for a damaged glyph
            return None

    def _joins(self, text: str) -> bool:
        """Return whether the font has all visible code points of a text, and one glyph for a sequence of them."""
        visible = [letter for letter in text if ord(letter) not in INVISIBLE]
        if not visible or not all(ord(letter) in self.code_points for letter in visible):
            return False
        if len(text.replace("\ufe0f", "")) == 1:
            return True
        return self.shapes_sequences and self._font.getlength(text) <= ONE_GLYPH * self._font.getlength(visible[0])

    def _drawn(self, text: str, background: tuple[int, int, int]) -> Image.Image | None:
        left, top, right, bottom = (round(one) for one in self._font.getbbox(text))
        if right <= left or bottom <= top or (right - left) * (bottom - top) > LARGEST:
            return None
        canvas = Image.new("RGBA", (right - left, bottom - top))
        ImageDraw.Draw(canvas).text((-left, -top), text, font=self._font, embedded_color=True)
        box = canvas.getchannel("A").getbbox()
        if box is None:
            return None
        pixels = numpy.asarray(canvas.crop(box)).astype(numpy.float32)  # drawn on nothing: the colours are multiplied by alpha
        shown = pixels[..., :3] + (1 - pixels[..., 3:] / 255) * numpy.array(background, numpy.float32)
        return Image.fromarray(shown.round().clip(0, 255).astype(numpy.uint8))


def _size(tables: Any) -> int | None:
    """Return the size in pixels at which a font's coloured glyphs can be drawn, or None if they cannot."""
    if "CBLC" in tables:
        return max(strike.bitmapSizeTable.ppemY for strike in tables["CBLC"].strikes)
    if "sbix" in tables:
        return max(tables["sbix"].strikes)
    return SCALABLE if "COLR" in tables and tables["COLR"].version == 0 else None
