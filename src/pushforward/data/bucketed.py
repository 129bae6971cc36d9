"""Images of several heights and widths as one data set, every batch of which has one of them: aspect-ratio buckets."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward._checks import shown, whole
from pushforward.data.dataset import Dataset
from pushforward.data.lazy import LazyDataset
from pushforward.errors import DataError, UserError
from pushforward.registry import export

LONGEST = 2  # times the nominal side: aspect ratios from 1/4 to 4
Sides = tuple[int, int]  # height, width


def bucket_sides(size: int, multiple: int) -> list[Sides]:
    """Return the (height, width) of all buckets: multiples of `multiple` whose product is as close to size^2 as its multiples allow.

    Heights are from size / 2 to 2 size; each has the largest width with height * width <= size^2. Widths are treated likewise, so that
    the buckets are symmetric.

    Raises:
        UserError: a side is no multiple, or too small for one.
    """
    whole("buckets", multiple, 1, hint="it is the number of pixels of which sides are multiples")
    if size % multiple:
        raise UserError(f"buckets is {multiple}, which does not divide the size, {size}; use a divisor, such as {math.gcd(size, 64)}.")
    heights = range(multiple * math.ceil(size / LONGEST / multiple), LONGEST * size + 1, multiple)
    tall = {(side, size * size // side // multiple * multiple) for side in heights}
    return sorted({(height, width) for height, width in tall | {(width, height) for height, width in tall} if height and width})


def nearest_bucket(sides: Sides, buckets: Sequence[Sides]) -> int:
    """Return the number of the bucket whose aspect ratio is nearest to an image's, in |log(height / width)|."""
    ratio = math.log(sides[0] / sides[1])
    return min(range(len(buckets)), key=lambda k: abs(math.log(buckets[k][0] / buckets[k][1]) - ratio))


@export("data.Bucketed")
class Bucketed(LazyDataset):
    """Data sets of examples of different shapes as one, whose batches are each of one shape.

    The Trainer draws its batches so: each has examples of one shape, and in the long run every example is drawn equally often. `groups`
    has the number of each example's shape. A model must take them: `models.sd3`, `models.autoencoder_kl` and Stable Diffusion 3 do.

    Args:
        name: name of the set in messages and reports.
        parts: one data set for each shape.
        shape: the shape that the set states, and so a model's samples by default; by default the first part's.

    Raises:
        DataError: there are no parts, or only some have captions or conditions.

    Example:
        >>> import torch
        >>> from pushforward import data
        >>> tall, wide = (data.Dataset("images", torch.zeros(4, 3, *sides)) for sides in ((16, 8), (8, 16)))
        >>> both = data.Bucketed("images", [tall, wide])
        >>> both, both.batch([4, 6])[0].shape
        (Bucketed('images', 8 examples, shape (3, 16, 8)), torch.Size([2, 3, 8, 16]))

    Source: Podell et al., SDXL, 2023, arXiv 2307.01952, section 2.3 and appendix I.
    """

    def __init__(self, name: str, parts: Sequence[Dataset], shape: Sequence[int] | None = None) -> None:
        if not parts or not all(isinstance(one, Dataset) for one in parts):
            raise DataError(f"{name}: parts is {shown(list(parts))}, but it must be one pushforward.data.Dataset for each shape.")
        for fact in ("captions", "cond"):
            if len({getattr(one, fact) is None for one in parts}) > 1:
                raise DataError(f"{name}: only some of its parts have {fact}; give all of them some, or none.")
        self.parts = tuple(parts)
        starts = torch.tensor([0, *(len(one) for one in parts)]).cumsum(0)
        self._starts = starts
        first = parts[0]
        conds = [one.cond for one in parts if one.cond is not None]
        super().__init__(
            name,
            torch.arange(int(starts[-1])),
            first.shape if shape is None else shape,
            torch.cat(conds) if conds else None,
            classes=first.classes,
            levels=first.levels if isinstance(first.levels, int) else None,
            class_names=first.class_names,
        )

    @property
    def groups(self) -> Tensor:  # type: ignore[override]
        """The number of each example's part (N,)."""
        return torch.bucketize(self.rows, self._starts[1:], right=True)

    @property
    def shards(self) -> Tensor | None:  # type: ignore[override]
        """The number of the shard (N,) that holds each example, if all parts are read shard by shard."""
        known = [one.shards for one in self.parts if one.shards is not None]
        return torch.cat(known)[self.rows] if len(known) == len(self.parts) else None

    @property
    def unaugmented(self) -> str:  # type: ignore[override]
        """Why examples cannot be flipped or shifted, where they cannot."""
        return self.parts[0].unaugmented

    @property
    def captions(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """The caption of each example, None if there are none."""
        known = [one.captions for one in self.parts if one.captions is not None]
        texts = [text for some in known for text in some]
        return tuple(texts[row] for row in self.rows.tolist()) if known else None

    def by_part(self) -> list[tuple[Dataset, list[int]]]:
        """Return the examples of each part that has some, as a set of one shape, with their indices in this set."""
        groups, found = self.groups, []
        for number in groups.unique().tolist():
            indices = (groups == number).nonzero().flatten()
            found.append((self.parts[number].subset(self.rows[indices] - self._starts[number]), indices.tolist()))
        return found

    def batch(self, indices: Sequence[int] | Tensor) -> Any:
        """Return the examples with these indices, which are of one shape, as one batch.

        Raises:
            UserError: they are of several shapes.
        """
        part, places = self._of_one_part(indices)
        return part.batch(places)

    def readable(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, list[int]]:
        """Return the examples with these indices that can be read, which are of one shape, and their indices."""
        part, places = self._of_one_part(indices)
        x, kept = part.readable(places)
        number = dict(zip(places.tolist(), torch.as_tensor(indices).tolist(), strict=True))
        return x, [number[place] for place in kept]

    def in_memory(self, most: int | None = None) -> Dataset:
        """Return the examples, or the first `most` of them, as a set in memory, if they are of one shape.

        Raises:
            UserError: they are of several shapes.
        """
        part, places = self._of_one_part(torch.arange(len(self) if most is None else min(most, len(self))))
        return part.subset(places).in_memory()

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of a SHA-256 of the parts' fingerprints, and of the examples in the set."""
        digest = hashlib.sha256(repr([one.fingerprint() for one in self.parts]).encode())
        digest.update(self.rows.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _of_one_part(self, indices: Sequence[int] | Tensor) -> tuple[Dataset, Tensor]:
        rows = self.rows[torch.as_tensor(indices, dtype=torch.int64)]
        held = torch.bucketize(rows, self._starts[1:], right=True).unique().tolist()
        if len(held) > 1:
            shapes = ", ".join(str(self.parts[k].shape) for k in held[:3])
            raise UserError(
                f"{self.name} is asked for examples of {len(held)} shapes together ({shapes}{', ...' if len(held) > 3 else ''}), which no "
                "tensor holds; take those of one group of `groups`, or load the data without buckets."
            )
        number = held[0] if held else 0
        return self.parts[number], rows - self._starts[number]


def groups_of(data: Any) -> Tensor | None:
    """Return the group of each example (N,) of a set whose examples have several shapes, or None."""
    groups = getattr(data, "groups", None)  # any map-style set may have it
    return groups if isinstance(groups, Tensor) and len(groups.unique()) > 1 else None


def shapes_of(data: Any) -> list[tuple[int, ...]]:
    """Return the shapes that the examples of a data set have."""
    return [one.shape for one in data.parts] if isinstance(data, Bucketed) else [data.shape]
