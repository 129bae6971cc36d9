"""Images that are decoded when a batch asks for them; one that cannot be read is skipped, counted and named."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pushforward.data.lazy import LazyDataset
from pushforward.errors import DataError, UserError


class ImageSource(Protocol):
    """Where encoded images come from; rows are numbered from 0."""

    def __len__(self) -> int: ...
    def open(self, row: int) -> Path | IO[bytes]: ...
    def name(self, row: int) -> str: ...
    def signature(self, rows: Sequence[int]) -> bytes: ...


class ImageDataset(LazyDataset):
    """Decode the images of a batch, resized and cut to squares.

    The place of an image that cannot be read is taken by the next one of the set that can, with its label: always by the same one, so that
    a resumed run sees what it saw before. Which ones these were is shared by all processes of a DataLoader.
    """

    def __init__(
        self,
        name: str,
        source: ImageSource,
        rows: Tensor,
        size: int,
        channels: int,
        cond: Tensor | None = None,
        *,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, rows, (channels, size, size), cond, classes=classes, levels=256, class_names=class_names)
        self.source = source
        self.captions = None if captions is None else tuple(captions)
        self._failed = torch.zeros(len(source), dtype=torch.uint8).share_memory_()

    @property
    def unreadable(self) -> tuple[str, ...]:
        """The names of the images that could not be read so far, by any process; `len` of it is how many."""
        return tuple(self.source.name(row) for row in self._failed.nonzero().flatten().tolist())

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageDataset":
        """Return the set of the examples with these indices, in this order, with their captions."""
        part = super().subset(indices)
        assert isinstance(part, ImageDataset)
        if self.captions is not None:
            part.captions = tuple(self.captions[place] for place in torch.as_tensor(indices).tolist())
        return part

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        x, taken = torch.empty(len(places), *self.shape, dtype=torch.uint8), torch.empty_like(places)
        for k, place in enumerate(places.tolist()):
            x[k], taken[k] = self._next_readable(place % len(self))
        return x, taken

    def _next_readable(self, place: int) -> tuple[Tensor, int]:
        channels, size, _ = self.shape
        for step in range(len(self)):
            here = (place + step) % len(self)
            row = int(self.rows[here])
            if self._failed[row]:
                continue
            try:
                return decoded(self.source.open(row), size, channels), here
            except Exception as error:  # damaged files make PIL raise nearly anything
                self._failed[row] = 1
                warnings.warn(f"{self.source.name(row)} cannot be read ({error}); the next image takes its place.", stacklevel=2)
        raise DataError(f"{self.name}: none of its {len(self)} images can be read, such as {self.unreadable[0]}; check the files.")

    def _signature(self, places: Tensor) -> bytes:
        return self.source.signature(self.rows[places].tolist())


def checked_image_options(what: str, size: int | None, channels: int) -> int:
    """Return size, or refuse sizes and channels that images cannot have."""
    if size is None:
        raise UserError(f"{what} holds images, which are made to be of one size: give size=32, the pixels of a side.")
    if not isinstance(size, int) or size < 1:
        raise UserError(f"size is {size!r}, but it is the pixels of a side, at least 1; try size=32.")
    if channels not in (1, 3):
        raise UserError(f"channels is {channels!r}, but images have 1 (grey) or 3 (red, green, blue).")
    return size


def decoded(file: Path | IO[bytes], size: int, channels: int) -> Tensor:
    """Return an image as uint8 (channels, size, size): turned upright, its shorter side resized to `size`, its middle cut out.

    Args:
        file: a path or an open file of any format that PIL reads.
        size: pixels of a side.
        channels: 1 for grey, 3 for colours.
    """
    mode = "L" if channels == 1 else "RGB"
    with Image.open(file) as image:
        image.draft(mode, (2 * size, 2 * size))  # a JPEG far larger is decoded at a fraction of its size, and of the time
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # which PIL would cut off at 255
            upright = Image.fromarray((numpy.asarray(upright) >> 8).astype(numpy.uint8))
        fitted = ImageOps.fit(upright.convert(mode), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(numpy.array(fitted).reshape(size, size, channels).transpose(2, 0, 1))
