"""What `pushforward train sd3` does before the flow is trained: the autoencoder, and latents and captions encoded once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pushforward.cli.rehearse import Before
from pushforward.cli.run import notify
from pushforward.cli.train import RunOptions, Source
from pushforward.data.bucketed import Bucketed, shapes_of
from pushforward.data.dataset import Dataset
from pushforward.data.hub import HUB
from pushforward.data.webdataset import SHARDS
from pushforward.errors import ConfigError, DataError, UserError
from pushforward.families.autoencoder import Autoencoder
from pushforward.formats.autoencoder_folder import check_autoencoder_folder, read_autoencoder_of, write_autoencoder_folder
from pushforward.formats.model import load
from pushforward.formats.run import clear_run, mark_launch
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.sd3.cache_files import fingerprint_of
from pushforward.sd3.images import finished
from pushforward.sd3.latent_buckets import cached_pairs
from pushforward.sd3.latent_cache import cache_latents, cache_share, is_cached
from pushforward.sd3.latent_pairs import LatentPairs
from pushforward.sd3.latent_write import EncodesText
from pushforward.sd3.run_files import VAE
from pushforward.sd3.text import TextEncoders, text_encoders
from pushforward.sd3.text_layout import Null
from pushforward.training.processes import Processes

Options = TypeVar("Options", bound=RunOptions)
AUTOENCODER, CACHE = "autoencoder", "latents"  # folders of a run
FEW = 16  # images that a dry run encodes, at least
FACTOR = 4  # by which the autoencoder that is trained first reduces an image's sides


@dataclass(frozen=True)
class Texts:
    """Text encoders, autoencoder and encoded data of a text-to-image model.

    Args:
        text_encoders: minilm, wordllama, or folders of text encoders of transformers; each is dropped by itself in training.
        text_tokens: tokens that each of them sees.
        autoencoder: a run of autoencoder_kl, a folder of diffusers or a Stable Diffusion 3 file; by default one is trained first, into the
            run's folder autoencoder.
        autoencoder_steps: steps of that training, of 8 images each: a small autoencoder of 8 channels at a quarter of the sides.
        cache: folder of encoded latents and captions, which other runs of the same data can share; by default the run's folder latents.
        mirrored: whether each image is also learned mirrored.
        per_shard: images and captions in a file of the cache.
        window: how many of its files are mixed in training, for a cache larger than memory; by default all are.
    """

    text_encoders: tuple[str, ...] = ("minilm",)
    text_tokens: int = 32
    autoencoder: Path | None = None
    autoencoder_steps: int = 4000
    cache: Path | None = None
    mirrored: bool = False
    per_shard: int = 1024
    window: int | None = None


@dataclass(frozen=True)
class Encoded:
    """The data of a text-to-image model: latents with encoded captions, and what encoded them."""

    train: LatentPairs | Bucketed
    validation: LatentPairs | Bucketed
    vae: AutoencoderKL
    texts: TextEncoders

    @property
    def caption(self) -> str:
        """One of the captions."""
        return (self.validation.captions or ("",))[0]

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Return the images (n, 3, height, width) in [0, 1] of latents."""
        return finished(self.vae.decode(latents))


def checked_captions(train: Dataset, more: str = "") -> None:
    """Raise unless a data set has texts; `more` is a further remedy.

    Raises:
        DataError: it has neither captions nor names of classes.
    """
    if train.captions is None and train.class_names is None:
        raise DataError(
            f"{train.name} has no captions; give images with a .txt file each or a metadata.csv of file_name and text, a set of Hugging "
            f"Face with a column of texts{more}, or --data emoji."
        )


def encoded(
    options: Texts,
    null_text: Null,
    source: Source,
    *,
    patch: int,
    among: Processes,
    overwrite: bool,
    resume: bool,
    trained: Callable[[Path], Autoencoder | int],
) -> Encoded | int:
    """Return the encoded data of a run, or an exit status if a signal ended the training of its autoencoder.

    Args:
        options: the command line's.
        null_text: what stands for no text.
        source: images with captions, the run's folder, and the device.
        patch: side of a patch of latents.
        among: the processes; the first one writes.
        overwrite: whether to remove what a former run left.
        resume: whether the run is continued, with the autoencoder that it holds.
        trained: trains an autoencoder in a folder and returns it, or an exit status.
    """
    out = source.out
    texts = text_encoders(options.text_encoders, null_text, tokens=options.text_tokens, device=source.device)
    kept = resume and (out / VAE).is_dir()
    held = out / VAE if kept else options.autoencoder
    given = None if held is None else given_autoencoder(held)
    check_autoencoder_folder(out / VAE)
    for data in (source.train, source.validation):
        check_sides(data, patch * (FACTOR if given is None else given.factor))
    if not (resume or source.launched):
        among.of_main(lambda: prepare_folder(out, overwrite, among.launch), "preparing the run folder")
    if not (out / VAE).is_dir():
        if given is None:
            model = trained(out / AUTOENCODER)
            if isinstance(model, int):
                return model
            given = model.autoencoder()
        vae = given
        among.of_main(lambda: str(write_autoencoder_folder(out / VAE, vae)), "writing the autoencoder")
    vae = given.to(source.device) if kept and given is not None else read_autoencoder_of(out / VAE, device=source.device)
    known = fingerprint_of(vae)
    if given is not None and not kept and fingerprint_of(given) != known:
        raise UserError(f"{out / VAE} holds another autoencoder than {options.autoencoder}; give another --out, or --overwrite.")
    cache = options.cache or out / CACHE

    shared: dict[str, Any] = {"vae_fingerprint": known, "per_shard": options.per_shard}
    train = pairs_of(source.train, cache, "train", vae, texts, among, mirrored=options.mirrored, window=options.window, **shared)
    return Encoded(train, pairs_of(source.validation, cache, "validation", vae, texts, among, **shared), vae, texts)


def few_of(source: Source, least: int) -> Source:
    """Return a source with the first images of its data only, of which a dry run encodes a batch."""
    train, validation = (data.take(min(len(data), max(least, FEW))) for data in (source.train, source.validation))
    return replace(source, train=train, validation=validation)


def before_training(source: Source, few: Source, seconds: float) -> Before:
    """Return what encoding all images takes, after the time of some, in which parts of the encoders are read."""
    counts, some = (len(source.train), len(source.validation)), len(few.train) + len(few.validation)
    return Before(f"encoding {sum(counts):,} images and captions", seconds * sum(counts) / some, *counts)


def check_sides(data: Dataset, step: int) -> None:
    """Raise unless all sides of images are multiples of so many pixels.

    Raises:
        UserError: one is not.
    """
    for shape in shapes_of(data):
        if any(side % step for side in shape[1:]):
            option = "the option buckets" if data.groups is not None else "the option size"
            raise UserError(f"{data.name} has images of {shape[1]}x{shape[2]}, but sides must be divisible by {step}: choose {option} so.")


def pairs_of(
    data: Dataset,
    cache: Path,
    split: str,
    vae: AutoencoderKL,
    texts: EncodesText,
    among: Processes,
    *,
    mirrored: bool = False,
    caption: str = "",
    vae_fingerprint: str | None = None,
    per_shard: int = 1024,
    window: int | None = None,
) -> LatentPairs | Bucketed:
    """Return latents and captions of a set, which the processes encode unless the cache holds them: each every size-th file.

    One caption may be that of all. `vae_fingerprint` is that of the autoencoder, if it is known; `per_shard` and `window` are those of
    `Texts`.
    """
    captions = [caption] * len(data) if caption else None
    if among.main and not is_cached(data, cache, split, captions):
        notify(f"encoding the {len(data)} images and captions of {split} into {cache / split}")
    options: dict[str, Any] = {"split": split, "captions": captions, "flips": mirrored, "vae_fingerprint": vae_fingerprint}
    options["per_shard"] = per_shard
    if among.size > 1:
        with among.agreed("encoding"):
            cache_share(data, cache, vae, texts, (among.rank, among.size), **options)
    among.of_main(lambda: repr(cache_latents(data, cache, vae, texts, **options)), "encoding")
    return cached_pairs(data, cache, split, lambda folder, part: LatentPairs(folder, part, window=window), window)


def of_images(options: Options, **more: str) -> Options:
    """Return the options so that images without a caption in a folder or a set of the Hub are left out, unless they state otherwise.

    `more` are further options of such data, likewise.
    """
    listed = Path(options.data).is_dir() or options.data.startswith((HUB, SHARDS))
    return replace(options, data_options={"missing": "drop", **more, **options.data_options}) if listed else options


def given_autoencoder(path: Path) -> AutoencoderKL:
    """Return the autoencoder of a run of autoencoder_kl, of a folder of diffusers or of a file.

    Raises:
        ConfigError: the run is of another preset.
        NoCheckpointError: there is none.
    """
    if not (path / "config.yaml").is_file():
        return read_autoencoder_of(path)
    model = load(path)
    if not isinstance(model, Autoencoder):
        raise ConfigError(f"--autoencoder is {path}, a run of another preset; give one of `pushforward train autoencoder_kl`.")
    return model.autoencoder()


def prepare_folder(out: Path, overwrite: bool, launch: str) -> None:
    """Remove a former run if it is to be replaced, and note the launch of torchrun, whose restarts continue even the encoding."""
    if overwrite:
        clear(out)
    mark_launch(out, launch)


def clear(out: Path) -> None:
    """Remove what a former run of text to image wrote into its folder: checkpoints, the autoencoder, and the encoded data."""
    for run in (out, out / AUTOENCODER):
        if run.is_dir():
            clear_run(run)
    for pattern in (f"{VAE}/*", f"{CACHE}/*/*"):
        for file in out.glob(pattern):
            if file.suffix in (".json", ".safetensors"):
                file.unlink()
    for folder in (out / VAE, *out.glob(f"{CACHE}/*")):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
