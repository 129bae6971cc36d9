"""Images that are decoded when a batch is read; unreadable images are skipped, counted and reported."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pushforward._checks import is_whole
from pushforward._images import Mode, in_8_bits, opened
from pushforward._memory import check_room
from pushforward.data.lazy import LazyDataset
from pushforward.errors import DamagedDataError, ShardError, UserError


class ImageSource(Protocol):
    """Source of encoded images; rows are numbered from 0."""

    def __len__(self) -> int: ...
    def open(self, row: int) -> Path | IO[bytes]: ...
    def name(self, row: int) -> str: ...
    def signature(self, rows: Sequence[int]) -> bytes: ...


class ImageDataset(LazyDataset):
    """Decode the images of a batch, resized and cropped to one height and width.

    An unreadable image is replaced by the next readable one of the set, with its label. The replacement is deterministic, so that a
    resumed run sees the same data. The list of unreadable images is shared by all worker processes of a DataLoader.
    """

    def __init__(
        self,
        name: str,
        source: ImageSource,
        rows: Tensor,
        sides: tuple[int, int],
        channels: int,
        cond: Tensor | None = None,
        *,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, rows, (channels, *sides), cond, classes=classes, levels=256, class_names=class_names)
        self.source = source
        self.captions = None if captions is None else tuple(captions)
        self._failed = torch.zeros(len(source), dtype=torch.uint8).share_memory_()

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Names of the images that any process failed to read so far."""
        return tuple(self.source.name(row) for row in self._failed.nonzero().flatten().tolist())

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageDataset":
        """Return the set of the examples with these indices, in this order, with their captions."""
        part = super().subset(indices)
        assert isinstance(part, ImageDataset)
        if self.captions is not None:
            part.captions = tuple(self.captions[place] for place in torch.as_tensor(indices).tolist())
        return part

    def _read(self, places: Tensor) -> tuple[Tensor, Tensor]:
        check_room(f"a batch of {len(places)} images of shape {self.shape}", len(places) * math.prod(self.shape), "give a smaller size")
        x, taken = torch.empty(len(places), *self.shape, dtype=torch.uint8), torch.empty_like(places)
        for k, place in enumerate(places.tolist()):
            x[k], taken[k] = self._next_readable(place % len(self))
        return x, taken

    def readable(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, list[int]]:
        """Return the images with these indices that can be read, and their indices; none is replaced, the others are in `unreadable`."""
        found = [(index, self._decoded(index, "left out")) for index in torch.as_tensor(indices).tolist()]
        kept = [(index, image) for index, image in found if isinstance(image, Tensor)]
        x = torch.stack([image for _, image in kept]) if kept else torch.empty(0, *self.shape)
        return x.to(torch.float32), [index for index, _ in kept]

    def _next_readable(self, place: int) -> tuple[Tensor, int]:
        latest = ""
        for step in range(len(self)):
            here = (place + step) % len(self)
            found = self._decoded(here, "replaced by the next image")
            if isinstance(found, Tensor):
                return found, here
            latest = found or latest
        raise DamagedDataError(
            f"{self.name}: none of its {len(self)} images can be read, such as {latest or self.unreadable[0]}; check the files."
        )

    def _decoded(self, place: int, otherwise: str) -> Tensor | str:
        """Return an image, or why it cannot be read, after a warning of what happens otherwise; "" if that was warned of before."""
        row = int(self.rows[place])
        if self._failed[row]:
            return ""
        try:
            return decoded(self.source.open(row), (self.shape[1], self.shape[2]), self.shape[0])
        except ShardError:
            raise
        except Exception as error:  # PIL raises many exception types for damaged files
            self._failed[row] = 1
            warnings.warn(f"{self.source.name(row)} cannot be read ({error}); it is {otherwise}.", stacklevel=4)
            return f"{self.source.name(row)} ({str(error).rstrip('.')})"

    def _signature(self, places: Tensor) -> bytes:
        return self.source.signature(self.rows[places].tolist())


def checked_image_options(what: str, size: int | None, channels: int) -> int:
    """Return size, or raise for invalid sizes and channels."""
    if size is None:
        raise UserError(f"{what} holds images, which must be resized to one size: give size=32, the side length in pixels.")
    if not is_whole(size) or size < 1:
        raise UserError(f"size is {size!r}, but it must be a side length of at least 1 pixel; try size=32.")
    if channels not in (1, 3):
        raise UserError(f"channels is {channels!r}, but images have 1 (greyscale) or 3 (RGB).")
    return size


def decoded(file: Path | IO[bytes], sides: tuple[int, int], channels: int) -> Tensor:
    """Return an image as uint8 (channels, height, width): resized so that it covers these sides, and centre-cropped.

    It is upright, its transparent parts show white, and every mode of PIL is read as the table in `_images` states.

    Args:
        file: a path or an open file of any format that PIL reads.
        sides: height and width in pixels.
        channels: 1 for greyscale, 3 for RGB.

    Raises:
        UserError: it holds numbers outside the range of its mode.
    """
    mode: Mode = "L" if channels == 1 else "RGB"
    height, width = sides
    with opened(file) as image:
        image.draft(mode, (2 * width, 2 * height))  # a much larger JPEG is decoded at reduced size, which is faster
        fitted = ImageOps.fit(in_8_bits(image, mode), (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(numpy.array(fitted).reshape(height, width, channels).transpose(2, 0, 1))
