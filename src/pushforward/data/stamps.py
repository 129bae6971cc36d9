"""Stamps of the drawing program Tux Paint: photographs and drawings with captions in many languages, read where Debian installs them."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from PIL import Image, ImageColor
from torch import Tensor

from pushforward import registry
from pushforward._files import text_of
from pushforward._images import in_8_bits, opened
from pushforward.data.captioned import CaptionedDataset, in_square, warn_left_out
from pushforward.data.images import checked_image_options
from pushforward.data.splits import check_split, split_indices, split_sizes
from pushforward.data.svg import check_resvg, drawn
from pushforward.errors import DataError, UserError
from pushforward.registry import export

DEBIAN = Path("/usr/share/tuxpaint/stamps")


@export("data.stamps", loader=True)
def stamps(
    split: str = "train", *, size: int = 32, folder: str | Path | None = None, language: str = "en", svg: bool = False, seed: int = 0
) -> CaptionedDataset:
    """Photographs and drawings of Tux Paint with captions in over 60 languages: some 780 PNG images in 16 classes, 160 more as SVG.

    The pictures are on white, in a square that holds all of each. Classes are the folders at the top (animals, food, ...), in which the
    splits, 80/10/10 by `seed`, are stratified. Stamps that exist as SVG only are drawn with `svg=True`, by resvg (the extra `svg`) in a
    process with 10 s a file and 1 GB; SVGs that refer to other files or hold images are left out.

    Args:
        split: "train", "validation" or "test".
        size: side length in pixels.
        folder: a folder of stamps, NAME.png (or NAME.svg) with NAME.txt; None is that of Debian's package tuxpaint-stamps-default.
        language: the captions' language as the files state it, such as "en", "fr" or "zh_CN"; stamps without it are left out.
        svg: whether to draw those that exist as SVG only.
        seed: seed of the split.

    Returns:
        The set with x (N, 3, size, size), integers 0 to 255, labels (N,), `captions`, and `names`, the caption too, of each row.

    Raises:
        DataError: the folder is missing or holds no stamps, or the temporary folder is full.
        UserError: no stamp has the language, or resvg is not installed.

    Warns:
        UserWarning: stamps are left out, as they are SVG, damaged or without a caption: how many, and the first, of SVGs with the reason.

    Example:
        >>> from pushforward import data
        >>> data.stamps("test", language="fr").captions[0]  # doctest: +SKIP
        'Un moineau.'

    Source: Tux Paint's stamps (Debian's tuxpaint-stamps-default, GPL 2).
    """
    check_split(split)
    size = checked_image_options("stamps", size, 3)
    root = DEBIAN if folder is None else Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: run apt-get install tuxpaint-stamps-default, or give folder=FOLDER, one of stamps.")
    if svg:
        check_resvg()
    read = _read(root.resolve(), root.stat().st_mtime_ns, size, language, svg)
    warn_left_out("stamps", read.total, read.left_out)
    try:
        sizes = split_sizes(len(read.captions))
    except DataError as error:
        raise DataError(f"{root}: {error}") from None
    whole = CaptionedDataset("stamps", read.x, read.captions, [[one] for one in read.captions], read.labels, read.class_names)
    return whole.subset(split_indices(split, sizes, seed, read.labels.numpy()))


@dataclass(frozen=True)
class _Read:
    """All stamps with a caption, how many images there are, and which were left out."""

    x: Tensor
    captions: list[str]
    labels: Tensor
    class_names: list[str]
    total: int
    left_out: dict[str, list[str]]


@functools.lru_cache(maxsize=2)  # the splits share it
def _read(root: Path, modified: int, size: int, language: str, svg: bool) -> _Read:
    found = _stems(root)
    files = {stem: f"{stem}{'.png' if '.png' in endings else '.svg'}" for stem, endings in found.items() if endings & {".png", ".svg"}}
    vectors = [] if svg else [file for file in files.values() if file.endswith(".svg")]
    files = {stem: file for stem, file in files.items() if file not in set(vectors)}
    if not files:
        more = " (svg=True reads NAME.svg too)" if vectors else ""
        raise DataError(f"{root} holds no stamps, which are NAME.png with NAME.txt{more}; give another folder.")
    known: set[str] = set()
    bare, damaged, pictures, captions, classes, captioned = [], [], [], [], [], {}
    white = ImageColor.getrgb("white")
    for stem, file in files.items():
        texts = _captions(root / f"{stem}.txt") if ".txt" in found[stem] else {}
        known |= texts.keys()
        if language in texts:
            captioned[stem] = texts[language]
        else:
            bare.append(file)
    to_draw = [files[stem] for stem in captioned if files[stem].endswith(".svg")]
    drawings = dict(zip(to_draw, drawn([root / file for file in to_draw], size) if to_draw else (), strict=True))
    for stem, caption in captioned.items():
        picture = drawings[files[stem]] if files[stem] in drawings else _bitmap(root / files[stem])
        if not isinstance(picture, Image.Image):
            damaged.append(files[stem] if picture is None else f"{files[stem]}: {picture}")
            continue
        pictures.append(in_square(picture, size, white[:3]))
        captions.append(caption)
        classes.append(stem.partition("/")[0] if "/" in stem else root.name)
    if known and language not in known:
        raise UserError(registry.unknown("language of these stamps", language, sorted(known)))
    if not pictures:
        raise DataError(f"{root} holds no stamp that can be read and has a caption in NAME.txt; give another folder.")
    names, labels = numpy.unique(classes, return_inverse=True)
    left_out = {"as SVG, for which svg=True is needed": vectors, f"without a caption in {language}": bare, "that cannot be read": damaged}
    total = len(files) + len(vectors)
    return _Read(torch.from_numpy(numpy.stack(pictures)), captions, torch.from_numpy(labels), names.tolist(), total, left_out)


def _bitmap(path: Path) -> Image.Image | None:
    try:
        with opened(path) as image:
            return in_8_bits(image, "RGB")
    except Exception:  # PIL raises many exception types for damaged files
        return None


def _stems(root: Path) -> dict[str, set[str]]:
    """Return the files of a folder and its sub-folders without their endings, sorted, and the endings of each."""
    found: dict[str, set[str]] = {}
    for place, folders, files in os.walk(root):
        folders[:] = [one for one in folders if not one.startswith(".")]
        inside = Path(place).relative_to(root).as_posix()
        for file in files:
            stem, ending = os.path.splitext(file if inside == "." else f"{inside}/{file}")
            if ending in (".png", ".svg", ".txt") and not file.startswith("."):
                found.setdefault(stem, set()).add(ending)
    return dict(sorted(found.items()))


def _captions(path: Path) -> dict[str, str]:
    """Return the captions of a stamp by language: the first line is English, others are LANGUAGE.utf8=CAPTION."""
    lines = text_of(path, DataError, encoding="utf-8-sig", errors="replace").splitlines()
    others = (line.partition(".utf8=") for line in lines[1:])
    found = {"en": lines[0] if lines else ""} | {language: text for language, mark, text in others if mark}
    return {language: text.strip() for language, text in found.items() if text.strip()}
