"""Pictures with captions in memory, and the sentence on those that were left out."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.data.splits import check_split, split_indices, split_sizes
from pushforward.errors import DataError

NAMED = 3  # of those left out for one reason


class CaptionedDataset(Dataset):
    """A `Dataset` of pictures in memory with a caption for each, and the names that a picture carries, by which samples are scored.

    Args:
        name: what messages and reports call the set.
        x: pictures (N, 3, size, size) in uint8.
        captions: N texts.
        names: the names of each picture: several where several names have the same picture.
        cond, class_names: as in `Dataset`.
    """

    def __init__(
        self,
        name: str,
        x: Tensor,
        captions: Sequence[str],
        names: Sequence[Sequence[str]],
        cond: Tensor | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, x, cond, classes=None if class_names is None else len(class_names), levels=256, class_names=class_names)
        self.captions, self.names = tuple(captions), tuple(tuple(some) for some in names)

    def subset(self, indices: Sequence[int] | Tensor) -> "CaptionedDataset":
        """Return the set of the examples with these indices, in this order, with their captions and names."""
        part: Any = super().subset(indices)
        places = torch.as_tensor(indices).tolist()
        part.captions, part.names = (tuple(held[place] for place in places) for held in (self.captions or (), self.names))
        return part

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of a SHA-256 of pictures, labels and captions."""
        return hashlib.sha256(repr((super().fingerprint(), self.captions)).encode()).hexdigest()[:16]


def split_by_group(name: str, split: str, groups: Sequence[int], seed: int) -> list[int]:
    """Return the indices of one split of a seeded 80/10/10 permutation of groups: examples of one group are in the same split.

    Args:
        name: what messages call the set.
        split: "train", "validation" or "test".
        groups: the group of each example.
        seed: seed of the permutation.
    """
    check_split(split)
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    listed = list(members.values())
    try:
        sizes = split_sizes(len(listed))
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    return [index for group in split_indices(split, sizes, seed).tolist() for index in listed[group]]


def in_square(picture: Image.Image, size: int, background: tuple[int, int, int], least: int = 1) -> numpy.ndarray:
    """Return a picture without transparency as uint8 (3, size, size), centred in a square of the background and resized.

    Args:
        picture: an RGB image.
        size: pixels of a side.
        background: the colour around it.
        least: pixels of the square's side before it is resized, if the picture is not larger.
    """
    side = max(least, *picture.size)
    square = Image.new("RGB", (side, side), background)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return numpy.asarray(square.resize((size, size), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def warn_left_out(name: str, total: int, left_out: Mapping[str, Sequence[str]]) -> None:
    """Warn of the images that are not in a set.

    Args:
        name: what messages call the set.
        total: how many images its source has.
        left_out: the names of those left out, by reason, which completes the sentence "3 ...".

    Warns:
        UserWarning: there are some: how many, why, and the first of each reason.
    """
    parts = [
        f"{len(names)} {reason} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        for reason, names in left_out.items()
        if names
    ]
    if parts:
        count = sum(map(len, left_out.values()))
        warnings.warn(f"{name}: {count} of {total} images are left out: {'; '.join(parts)}.", stacklevel=3)
