"""Emoji as pictures with captions: the glyphs of a colour font, called by their Unicode names or by given labels."""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from PIL import ImageColor
from torch import Tensor

from pushforward.data.captioned import CaptionedDataset, in_square, split_by_group, warn_left_out
from pushforward.data.colour_font import ColourFont
from pushforward.data.emoji_names import Emoji, labelled_emoji, unicode_emoji
from pushforward.data.images import checked_image_options
from pushforward.data.splits import check_split
from pushforward.errors import DataError, UserError
from pushforward.registry import export

DEBIAN = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


@export("data.emoji", loader=True)
def emoji(
    split: str = "train",
    *,
    size: int = 32,
    font: str | Path | None = None,
    labels: str | Path | None = None,
    language: str = "en",
    background: str = "white",
    tags: bool = True,
    skins: bool = True,
    seed: int = 0,
) -> CaptionedDataset:
    """Emoji of a colour font with captions: about 1,400 pictures of Debian's Noto Color Emoji, 3,800 with sequences.

    Without `labels` they are the font's single code points, captioned by Unicode's names. With `labels` they are what the file lists, also
    sequences (skin colours, flags, families), captioned by label and tags. A glyph that several emoji share is one example with several
    `names`. Emoji that differ in the colour of skin only are in the same split; 80/10/10 of the others by `seed`.

    Args:
        split: "train", "validation" or "test".
        size: side length in pixels.
        font: a colour font with bitmaps (CBDT, sbix) or layers (COLR 0); None is that of Debian's package fonts-noto-color-emoji.
        labels: a JSON file of labels and tags in the format of data.json in the npm package emojibase-data, or that package's folder.
        language: the folder of emojibase-data to read, such as "en" or "zh".
        background: what transparent parts show: a name or #rrggbb.
        tags: whether captions continue with the tags of `labels`: "waving hand, hello, wave".
        skins: whether the emoji of `labels` are in all colours of skin, or in the neutral one only.
        seed: seed of the split.

    Returns:
        The set with x (N, 3, size, size), integers 0 to 255, `captions`, and `names` of each row.

    Raises:
        DataError: the font or the labels are missing or cannot be read.
        UserError: an option is not allowed.

    Warns:
        UserWarning: emoji are left out, as the font does not draw them or they have no name: how many, and the first.

    Example:
        >>> from pushforward import data
        >>> data.emoji("test").captions[0]  # doctest: +SKIP
        'cherries'

    Source: Google's Noto Color Emoji (Debian's fonts-noto-color-emoji, SIL Open Font License); emojibase-data (MIT).
    """
    check_split(split)
    size = checked_image_options("emoji", size, 3)
    if labels is None and language != "en":
        raise UserError(f"language is {language!r}, but Unicode's names are English; give labels=FOLDER of the npm package emojibase-data.")
    try:
        colour = ImageColor.getrgb(background)[:3]
    except (ValueError, AttributeError):
        raise UserError(f"background is {background!r}, but it must be a colour such as 'white' or '#202020'.") from None
    file = _font(font)
    listed = None if labels is None else Path(labels).expanduser()
    drawn = _drawn(file, file.stat().st_mtime_ns, size, listed, language, colour, tags, skins)
    warn_left_out("emoji", drawn.total, drawn.left_out)
    rows = split_by_group("emoji", split, [one.group for one in drawn.emoji], seed)
    captions, names = [drawn.emoji[row].caption for row in rows], [drawn.names[row] for row in rows]
    return CaptionedDataset("emoji", drawn.x[rows], captions, names)


@dataclass(frozen=True)
class _Drawn:
    """All pictures of a font (N, 3, size, size), the first emoji that has each, the names of all, and what was left out."""

    x: Tensor
    emoji: list[Emoji]
    names: list[list[str]]
    total: int
    left_out: dict[str, list[str]]


@functools.lru_cache(maxsize=2)  # the splits share it: drawing takes seconds
def _drawn(
    file: Path, modified: int, size: int, labels: Path | None, language: str, background: tuple[int, int, int], tags: bool, skins: bool
) -> _Drawn:
    font = ColourFont(file)
    listed, nameless = unicode_emoji(font.code_points) if labels is None else (labelled_emoji(labels, language, tags, skins), [])
    found: dict[bytes, Emoji] = {}
    names: dict[bytes, list[str]] = {}
    pictures, missing = [], []
    for one in listed:
        picture = font.picture(one.text, background)
        if picture is None:
            missing.append(one.name)
            continue
        content = repr(picture.size).encode() + picture.tobytes()
        if content not in found:
            found[content], names[content] = one, []
            pictures.append(in_square(picture, size, background, font.height))
        names[content].append(one.name)
    if not pictures:
        raise DataError(f"{file} draws none of the {len(listed)} emoji that are named; give another font, or other labels.")
    left_out = {"that the font does not draw": missing, "without a name in Python's Unicode": nameless}
    total = len(listed) + len(nameless)
    return _Drawn(torch.from_numpy(numpy.stack(pictures)), list(found.values()), list(names.values()), total, left_out)


def _font(font: str | Path | None) -> Path:
    file = DEBIAN if font is None else Path(font).expanduser()
    if not file.is_file():
        how = "run apt-get install fonts-noto-color-emoji, or give font=FILE, another colour font"
        raise DataError(f"there is no font {file}: {how}.")
    return file
