"""Images of files as a data set of squares, or in buckets of several aspect ratios."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pushforward._images import opened
from pushforward.data.bucketed import Bucketed, Sides, bucket_sides, nearest_bucket
from pushforward.data.images import ImageDataset, ImageSource
from pushforward.data.lazy import LazyDataset

ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values of images that lie on their side


def images_of(
    name: str,
    source: ImageSource,
    rows: Tensor,
    size: int,
    channels: int,
    cond: Tensor | None = None,
    *,
    buckets: int | None = None,
    classes: int | None = None,
    class_names: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
) -> LazyDataset:
    """Return images as a set: squares, or each in the bucket whose aspect ratio is nearest to its own.

    Args:
        name: name of the set.
        source: the encoded images.
        rows: rows of the source that are in the set.
        size: pixels of a square's side.
        channels: 1 or 3.
        cond: condition of each of `rows`, or None.
        buckets: pixels of which sides are multiples; None is squares.
        classes: number of classes, or None.
        class_names: their names, or None.
        captions: caption of each of `rows`, or None.

    Raises:
        UserError: `buckets` does not divide the size.
    """

    def of(chosen: Tensor, sides: Sides) -> ImageDataset:
        texts = None if captions is None else [captions[place] for place in chosen.tolist()]
        given = None if cond is None else cond[chosen]
        return ImageDataset(name, source, rows[chosen], sides, channels, given, classes=classes, class_names=class_names, captions=texts)

    if buckets is None:
        return of(torch.arange(len(rows)), (size, size))
    sides = bucket_sides(size, buckets)
    square = sides.index((size, size))
    number = torch.tensor([nearest_bucket(found, sides) if (found := _sides(source, row)) else square for row in rows.tolist()])
    parts = [of((number == k).nonzero().flatten(), sides[k]) for k in number.unique().tolist()]
    return Bucketed(name, parts, (channels, size, size))


def _sides(source: ImageSource, row: int) -> Sides | None:
    """Return height and width of an upright image, from its header, or None if it cannot be read."""
    try:
        with opened(source.open(row)) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except Exception:  # PIL raises many exception types for damaged files
        return None
    return (width, height) if turned else (height, width)
