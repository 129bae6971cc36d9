"""The files of a cache of latents: where they are, what identifies it, and what refuses another one's."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pushforward._files import json_of, regular
from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.nn.autoencoder_kl import AutoencoderKL

FORMAT = 1
PLAN, INDEX, NONE = "plan.json", "index.json", "none.safetensors"
WHAT = {
    "vae": "another autoencoder",
    "text": "other text encoders",
    "null": "another choice of what stands for no prompt",
    "data": "other data",
    "flips": "another choice of flips",
    "dtype": "another dtype",
    "per_shard": "another size of shards",
    "format": "another version of this library",
}


def latents_file(folder: Path, shard: int) -> Path:
    """Return the path of a shard of latents."""
    return folder / f"latents-{shard:05d}.safetensors"


def text_file(folder: Path, shard: int) -> Path:
    """Return the path of a shard of encoded captions."""
    return folder / f"text-{shard:05d}.safetensors"


def fingerprint_of(vae: AutoencoderKL) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 of an autoencoder's weights, scale and shift."""
    return weights_digest(vae, repr((vae.scale, vae.shift)))


def weights_digest(module: nn.Module, others: str = "") -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 of a module's weights by name, and of other facts."""
    digest = hashlib.sha256(others.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def read_json(path: Path) -> Any:
    """Return the content of a file of a cache.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return json_of(regular(path, CheckpointError).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove the folder and cache the latents again.") from None


def check_same(folder: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise if the cache in a folder is not the one that is wanted.

    Args:
        folder: the folder.
        held: the facts of the cache.
        wanted: those that it must have.

    Raises:
        UserError: one differs; the message states what it is of.
    """
    for fact, what in WHAT.items():
        if fact in wanted and held.get(fact) != wanted[fact]:
            raise UserError(
                f"{folder} holds latents cached with {what} ({fact} {held.get(fact)}, not {wanted[fact]}); give another folder, "
                "or remove it and cache them again."
            )


def read_index(folder: Path) -> dict[str, Any]:
    """Return the index of a finished cache.

    Raises:
        NoCheckpointError: there is none, or it is not finished.
        CheckpointError: it is damaged.
    """
    if not (folder / INDEX).is_file():
        state = "is not finished: call cache_latents again, which continues it" if (folder / PLAN).is_file() else "holds no cached latents"
        raise NoCheckpointError(f"{folder} {state}.")
    index = read_json(folder / INDEX)
    needed = ("plan", "parts", "shape", "counts", "captions")
    if not isinstance(index, dict) or any(name not in index for name in needed) or not isinstance(index["plan"], dict):
        raise CheckpointError(f"{folder / INDEX} is not the index of cached latents; remove the folder and cache them again.")
    check_same(folder, index["plan"], {"format": FORMAT})
    return index
