"""Writing of cached latents and captions: shards one after the other, of which those that are already there are kept."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pushforward.conditions import TextContext
from pushforward.data.dataset import Dataset
from pushforward.errors import DataError, NotFiniteError
from pushforward.formats.files import write_atomically, write_text
from pushforward.formats.tensor_file import TensorFile, write_tensors
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.sd3.cache_files import INDEX, NONE, latents_file, text_file
from pushforward.sd3.text_layout import TextLayout

Share = tuple[int, int]  # (rank, size): the shards k with k mod size = rank
ALL: Share = (0, 1)
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class EncodesText(Protocol):
    """What encodes captions, such as `sd3.TextEncoders`."""

    layout: TextLayout

    def __call__(self, prompts: Any) -> TextContext:
        """Return the encodings of n prompts."""
        ...

    def fingerprint(self) -> str:
        """Return what identifies the encoders."""
        ...


@dataclass(frozen=True)
class Images:
    """Images and the autoencoder that encodes them.

    Args:
        data: the images.
        vae: the autoencoder.
        flips: whether each is encoded mirrored too.
        dtype: dtype of the latents.
        batch_size: images encoded together.
    """

    data: Dataset
    vae: AutoencoderKL
    flips: bool
    dtype: torch.dtype
    batch_size: int

    @torch.no_grad()
    def encoded(self, rows: Sequence[int]) -> tuple[dict[str, Tensor], list[int]]:
        """Return the latents of the images of some rows that can be read, also of the mirrored ones, and their rows."""
        training, device = self.vae.training, next(self.vae.parameters()).device
        self.vae.eval()
        found: dict[str, list[Tensor]] = {"latents": [], **({"flipped": []} if self.flips else {})}
        kept: list[int] = []
        try:
            for start in range(0, len(rows), self.batch_size):
                x, readable = self.data.readable(rows[start : start + self.batch_size])
                if not readable:
                    continue
                images = _scaled(self.data, x).to(device)
                for name, latents in found.items():
                    latents.append(self.vae.encode(images.flip(3) if name == "flipped" else images).cpu())
                    if not latents[-1].isfinite().all():
                        raise NotFiniteError("the autoencoder returned NaN or infinity; use it in float32 or bfloat16, or train it again.")
                kept += readable
        finally:
            self.vae.train(training)
        return {name: torch.cat(latents).to(self.dtype) for name, latents in found.items() if latents}, kept


def write_captions(
    folder: Path, captions: Sequence[str], text: EncodesText, dtype: torch.dtype, per_shard: int, share: Share = ALL
) -> None:
    """Write the encodings of captions, and that of no prompt, to shards of this share; those that are there are kept."""
    _write(folder / NONE, {"context": text.layout.none.context, "pooled": text.layout.none.pooled})
    for shard, start in enumerate(range(0, len(captions), per_shard)):
        path = text_file(folder, shard)
        if shard % share[1] == share[0] and not path.is_file():
            cond = text(list(captions[start : start + per_shard])).to("cpu", dtype)
            _write(path, {"context": cond.context, "pooled": cond.pooled})


def write_latents(
    folder: Path,
    images: Images,
    rows: Sequence[int],
    captions: Sequence[int],
    per_shard: int,
    progress: Callable[[int, int], Any] | None,
    share: Share = ALL,
) -> list[int]:
    """Write latents to shards, with the row and the caption's number of each, and return how many each shard of the share has.

    Args:
        folder: the folder.
        images: what to encode.
        rows: rows of the data set that have a caption.
        captions: the number of each row's caption.
        per_shard: rows per file; those that cannot be read are left out.
        progress: called after each shard.
        share: which shards to write.

    Raises:
        DataError: it is the share of one process, and none of the images can be read.
    """
    counts, caption = [], dict(zip(rows, captions, strict=True))
    for shard, start in enumerate(range(0, len(rows), per_shard)):
        path = latents_file(folder, shard)
        if shard % share[1] != share[0]:
            continue
        if not path.is_file():
            tensors, kept = images.encoded(rows[start : start + per_shard])
            numbers = {"row": kept, "caption": [caption[row] for row in kept]}
            _write(path, tensors | {name: torch.tensor(some, dtype=torch.int64) for name, some in numbers.items()})
        counts.append(TensorFile(path).entries["row"].shape[0])
        if progress is not None:
            progress(min(start + per_shard, len(rows)), len(rows))
    if share == ALL and not sum(counts):
        raise DataError(f"{images.data.name}: none of its {len(rows)} images can be read; check the files.")
    return counts


def write_index(
    folder: Path, plan: Mapping[str, Any], layout: TextLayout, shape: Sequence[int], counts: Sequence[int], captions: Sequence[str]
) -> None:
    """Write the index, which makes a cache complete."""
    parts = [vars(part) for part in layout.parts]
    facts = {"plan": plan, "parts": parts, "shape": shape, "counts": counts, "captions": captions}
    write_text(folder / INDEX, json.dumps(facts, ensure_ascii=False))


def _scaled(data: Dataset, x: Tensor) -> Tensor:
    """Return images in [-1, 1]: pixels with levels mapped to it, other numbers as they are."""
    if isinstance(data.levels, int):
        return x * (2 / (data.levels - 1)) - 1
    if x.abs().max() > 1:
        raise DataError(
            f"{data.name} has numbers from {x.min():g} to {x.max():g}, but an autoencoder reads images in [-1, 1]; give levels=256."
        )
    return x


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    content = {name: functools.partial(tensors.__getitem__, name) for name in tensors}
    write_atomically(path, lambda temporary: write_tensors(temporary, content, {}))
