"""Latents and encoded captions computed once and written to shards, so that training needs neither autoencoder nor text encoders."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pushforward._checks import shown, whole
from pushforward.data.bucketed import Bucketed
from pushforward.data.captioned import warn_left_out
from pushforward.data.dataset import Dataset
from pushforward.data.images import ImageDataset
from pushforward.data.splits import check_split
from pushforward.errors import DataError, ShapeError, UserError
from pushforward.formats.files import write_text
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.registry import export
from pushforward.sd3.cache_files import FORMAT, INDEX, PLAN, check_same, fingerprint_of, read_json
from pushforward.sd3.latent_buckets import BucketedPairs, cached_pairs, in_buckets
from pushforward.sd3.latent_pairs import LatentPairs
from pushforward.sd3.latent_write import ALL, DTYPES, EncodesText, Images, Share, write_captions, write_index, write_latents


@export("sd3.cache_latents")
def cache_latents(
    data: Dataset,
    folder: str | Path,
    vae: AutoencoderKL,
    text: EncodesText,
    *,
    split: str = "train",
    captions: Sequence[str] | None = None,
    flips: bool = False,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 32,
    per_shard: int = 1024,
    vae_fingerprint: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> LatentPairs | BucketedPairs:
    """Write the latents and encoded captions of a data set to a folder, and return them as a data set.

    Latents are the means of the autoencoder's distribution, scaled and shifted; equal captions are encoded and stored once. Images that
    cannot be read and those without a caption are left out. The files are written one after the other, each atomically: called again after
    an interruption, it continues with the next one, and called again when it was finished, it computes nothing.

    Args:
        data: one split of images, pixels with levels or numbers in [-1, 1], with captions; of images in buckets (`data.Bucketed`) each has
            a folder of its own.
        folder: where to write; the split gets a folder in it.
        vae: the autoencoder.
        text: the text encoders.
        split: "train", "validation" or "test": what `data` is.
        captions: one text for each image; None is `data.captions`, or the names or numbers of the classes of a set without.
        flips: whether to encode each image mirrored too.
        dtype: torch.float32, or torch.bfloat16 for half the size.
        batch_size: images encoded together.
        per_shard: images and captions per file.
        vae_fingerprint: what identifies the autoencoder, if known; None is a hash of its weights, scale and shift.
        progress: called with the number of images that are finished, and of all, after each file.

    Returns:
        The set of latents with their encoded captions, mirrored ones behind the others.

    Raises:
        UserError: an option is not allowed, or the folder holds a cache of another autoencoder, text encoder or data.
        DataError: there are no captions, or pixels are out of range.
        ShapeError: the images do not fit the autoencoder.

    Warns:
        UserWarning: images were left out: how many, why, and the first.

    Example:
        >>> from pushforward import data, nn, sd3
        >>> vae = nn.AutoencoderKL(3, 4, (16, 32), groups=8)
        >>> emoji, text = data.emoji(), sd3.text_encoders("wordllama")  # doctest: +SKIP
        >>> pairs = sd3.cache_latents(emoji, "cache", vae, text)  # doctest: +SKIP
        >>> pairs.shape  # doctest: +SKIP
        (4, 16, 16)
    """
    options: dict[str, Any] = {"split": split, "captions": captions, "flips": flips, "dtype": dtype, "batch_size": batch_size}
    cache_share(data, folder, vae, text, ALL, per_shard=per_shard, vae_fingerprint=vae_fingerprint, progress=progress, **options)
    return cached_pairs(data, folder, split)


def cache_share(
    data: Dataset,
    folder: str | Path,
    vae: AutoencoderKL,
    text: EncodesText,
    share: Share,
    *,
    split: str = "train",
    captions: Sequence[str] | None = None,
    flips: bool = False,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 32,
    per_shard: int = 1024,
    vae_fingerprint: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> None:
    """Write one process's share of the shards of a cache, which `cache_latents` completes when all shares are written.

    `share` is (rank, size): the shards k with k mod size = rank; (0, 1) writes all and completes the cache. The
    others are those of `cache_latents`.
    """
    check_split(split)
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype}, but latents are cached as torch.float32 or torch.bfloat16.")
    whole("batch_size", batch_size, 1)
    whole("per_shard", per_shard, 1)
    texts = _captions(data, captions)
    if isinstance(data, Bucketed):
        for part in data.parts:
            _latent_shape(part, vae)
        shared: dict[str, Any] = {"flips": flips, "dtype": dtype, "batch_size": batch_size, "per_shard": per_shard}
        shared["vae_fingerprint"] = fingerprint_of(vae) if vae_fingerprint is None else vae_fingerprint
        for part, place, own, counted in in_buckets(data, Path(folder), texts, progress):
            cache_share(part, place, vae, text, share, split=split, captions=own, progress=counted, **shared)
        return
    shape = _latent_shape(data, vae)
    plan = {
        "format": FORMAT,
        "vae": fingerprint_of(vae) if vae_fingerprint is None else vae_fingerprint,
        "text": text.fingerprint(),
        "null": text.layout.null,
        "data": hashlib.sha256(repr((data.fingerprint(), texts)).encode()).hexdigest()[:16],
        "flips": flips,
        "dtype": DTYPES[dtype],
        "per_shard": per_shard,
    }
    place = Path(folder) / split
    if (place / PLAN).is_file():
        check_same(place, read_json(place / PLAN), plan, finished=(place / INDEX).is_file())
    if not (place / INDEX).is_file():
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / PLAN, json.dumps(plan, indent=1))
        rows = [row for row, caption in enumerate(texts) if caption]
        unique = list(dict.fromkeys(texts[row] for row in rows))
        number = {caption: place for place, caption in enumerate(unique)}
        write_captions(place, unique, text, dtype, per_shard, share)
        images = Images(data, vae, flips, dtype, batch_size)
        counts = write_latents(place, images, rows, [number[texts[row]] for row in rows], per_shard, progress, share)
        if share != ALL:
            return
        write_index(place, plan, text.layout, shape, counts, unique)
    pairs = LatentPairs(folder, split)
    kept = set(pairs.sources.tolist())
    lost = {
        "without a caption": [_name(data, row) for row, caption in enumerate(texts) if not caption],
        "that cannot be read": [_name(data, row) for row, caption in enumerate(texts) if caption and row not in kept],
    }
    warn_left_out(data.name, len(texts), lost)


def is_cached(data: Dataset, folder: str | Path, split: str, captions: Sequence[str] | None = None) -> bool:
    """Return whether a folder holds all files of a cache of data; those of other data are refused when it is read."""
    if not isinstance(data, Bucketed):
        return (Path(folder) / split / INDEX).is_file()
    parts = in_buckets(data, Path(folder), _captions(data, captions), None)
    return all((place / split / INDEX).is_file() for _, place, _, _ in parts)


def _captions(data: Any, given: Sequence[str] | None) -> list[str]:
    """Return the caption of each image, "" where there is none."""
    if not isinstance(data, Dataset):
        raise UserError(f"data is {shown(data)}, but it must be a pushforward.data.Dataset of images; pf.data.load returns one.")
    captions: Sequence[Any] | None = data.captions if given is None else given
    if captions is None and data.classes is not None and data.cond is not None:
        names = data.class_names or range(data.classes)
        captions = [str(names[label]) for label in data.cond.tolist()]
    if captions is None:
        raise DataError(f"{data.name} has no captions; give captions=, one text for each image, or use data that have some.")
    texts = [(one or "").strip() if isinstance(one, str) or one is None else shown(one) for one in captions]
    if isinstance(captions, str) or len(texts) != len(data) or not all(isinstance(one, str | None) for one in captions):
        raise DataError(f"captions is {shown(captions)} of length {len(texts)}, but {len(data)} images need one text each.")
    if not any(texts):
        raise DataError(f"{data.name}: all {len(texts)} captions are empty; give images with captions.")
    return texts


def _latent_shape(data: Dataset, vae: AutoencoderKL) -> tuple[int, int, int]:
    """Return the shape of the latents of a data set's images."""
    if len(data.shape) != 3 or data.shape[0] != vae.channels:
        raise ShapeError(
            f"{data.name} has examples of shape {data.shape}, but the autoencoder reads images ({vae.channels}, height, width); give "
            "images of so many channels."
        )
    _, height, width = data.shape
    if height % vae.factor or width % vae.factor:
        raise ShapeError(
            f"{data.name} has images of {height}x{width}, but the autoencoder needs sides divisible by {vae.factor}; resize them."
        )
    return vae.latent_channels, height // vae.factor, width // vae.factor


def _name(data: Dataset, row: int) -> str:
    """Return what messages call an image."""
    return data.source.name(int(data.rows[row])) if isinstance(data, ImageDataset) else f"example {row}"
