"""Caches of latents of several heights and widths: one in a folder of its own for each bucket of images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pushforward.data.bucketed import Bucketed
from pushforward.data.dataset import Dataset
from pushforward.sd3.cache_files import INDEX
from pushforward.sd3.latent_pairs import LatentPairs
from pushforward.sd3.text_layout import TextLayout


class BucketedPairs(Bucketed):
    """Cached latents of several shapes; `text` is the layout of their text encoders."""

    @property
    def text(self) -> TextLayout:
        """The layout of the encoders, equal in all parts."""
        layout: Any = self.parts[0]
        found: TextLayout = layout.text
        return found


def bucket_folder(folder: Path, images: Dataset) -> Path:
    """Return the folder of the cache of a bucket's images, named by their height and width."""
    return folder / f"{images.shape[1]}x{images.shape[2]}"


def in_buckets(
    images: Bucketed, folder: Path, captions: Sequence[str], progress: Callable[[int, int], Any] | None
) -> Iterator[tuple[Dataset, Path, list[str], Callable[[int, int], Any]]]:
    """Yield the images of each bucket that has captions, its folder, its captions, and what counts its images among all."""
    done = 0
    for part, indices in images.by_part():
        own, before = [captions[index] for index in indices], done
        done += len(indices)

        def counted(count: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + count, len(images))

        if any(own):
            yield part, bucket_folder(folder, part), own, counted


def cached_pairs(
    images: Dataset, folder: str | Path, split: str, read: Callable[[Path, str], LatentPairs] = LatentPairs, window: int | None = None
) -> LatentPairs | BucketedPairs:
    """Return the cached latents of images, in the same buckets.

    Args:
        images: what was cached.
        folder: the folder that was given to `cache_latents`.
        split: "train", "validation" or "test".
        read: returns the cache in a folder.
        window: how many shards are mixed in training, if they are read shard by shard.

    Raises:
        NoCheckpointError: there is no finished cache.
    """
    if not isinstance(images, Bucketed):
        return read(Path(folder), split)
    places = [(part, bucket_folder(Path(folder), part)) for part in images.parts]
    found = [(part, read(place, split)) for part, place in places if (place / split / INDEX).is_file()]
    if not found:
        return read(places[0][1], split)  # which raises
    part, first = found[0]
    factor = part.shape[1] // first.shape[1]
    shape = first.shape[0], *(side // factor for side in images.shape[1:])
    whole = BucketedPairs(f"{Path(folder).name}/{split}", [pairs for _, pairs in found], shape)
    whole.window = window or whole.window
    return whole
