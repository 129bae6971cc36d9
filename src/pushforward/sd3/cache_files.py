"""The files of a cache of latents: where they are, what identifies it, and what refuses another one's."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from pushforward._checks import whole
from pushforward._files import json_of, text_of
from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.sd3.text_layout import TextPart

FORMAT = 1
TOKENIZERS = "tokenizers"  # the part of the fact "text" behind a hyphen, which those of other encoders and of older caches do not have
PLAN, INDEX, NONE = "plan.json", "index.json", "none.safetensors"
WHAT = {
    "vae": "another autoencoder",
    "text": "other text encoders",
    TOKENIZERS: "other tokenizers",
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
    """Return the first 16 hexadecimal digits of a SHA-256 of a module's weights by name, and of other facts.

    Weights with a parametrisation, such as a LoRA that is not merged, are those that are computed with.
    """
    digest = hashlib.sha256(others.encode())
    computed = {path: one for path, one in module.named_modules() if parametrize.is_parametrized(one)}
    tensors = {name: one for name, one in module.state_dict().items() if name.partition(".parametrizations.")[0] not in computed}
    for path, one in computed.items():
        tensors |= {f"{path}.{name}": getattr(one, name) for name in one.parametrizations}
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def read_json(path: Path) -> Any:
    """Return the content of a file of a cache.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return json_of(text_of(path, CheckpointError))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove the folder and cache the latents again.") from None


def check_same(folder: Path, held: Any, wanted: Mapping[str, Any], finished: bool = True) -> None:
    """Raise if the cache in a folder is not the one that is wanted.

    Args:
        folder: the folder.
        held: the facts of the cache, as its file states them.
        wanted: those that it must have.
        finished: whether tokenizers that either side does not state are accepted; one that is continued would mix those of both.

    Raises:
        UserError: one differs; the message states what it is of.
    """
    held, wanted = _split(held if isinstance(held, Mapping) else {}), _split(wanted)
    if finished and (TOKENIZERS not in held or TOKENIZERS not in wanted):
        wanted.pop(TOKENIZERS, None)
    for fact, what in WHAT.items():
        if fact in wanted and held.get(fact) != wanted[fact]:
            raise UserError(
                f"{folder} holds latents cached with {what} ({fact} {held.get(fact)}, not {wanted[fact]}); give another folder, "
                "or remove it and cache them again."
            )


def _split(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts of which that of the text is two, if it is of encoders and tokenizers."""
    text = facts.get("text")
    encoders, hyphen, tokenizers = text.partition("-") if isinstance(text, str) else (text, "", "")
    return {**facts, "text": encoders, TOKENIZERS: tokenizers} if hyphen else dict(facts)


@dataclass(frozen=True)
class Index:
    """The index of a finished cache: its facts, the parts of a condition, the latents' shape, how many each shard has, and all captions."""

    plan: dict[str, Any]
    parts: tuple[TextPart, ...]
    shape: tuple[int, int, int]
    counts: tuple[int, ...]
    captions: tuple[str, ...]
    per_shard: int
    flips: bool


def read_index(folder: Path) -> Index:
    """Return the index of a finished cache.

    Raises:
        NoCheckpointError: there is none, or it is not finished.
        CheckpointError: it is damaged.
        UserError: another version of this library wrote it.
    """
    if not (folder / INDEX).is_file():
        state = "is not finished: call cache_latents again, which continues it" if (folder / PLAN).is_file() else "holds no cached latents"
        raise NoCheckpointError(f"{folder} {state}.")
    held = read_json(folder / INDEX)
    if isinstance(held, dict) and isinstance(held.get("plan"), dict) and "format" in held["plan"]:
        check_same(folder, held["plan"], {"format": FORMAT})
    try:
        plan = dict(held["plan"])
        parts = tuple(
            TextPart(str(one["encoder"]), *(_range(one[key]) for key in ("tokens", "channels", "pooled"))) for one in held["parts"]
        )
        channels, height, width = (whole("shape", side, 1) for side in held["shape"])
        counts = tuple(whole("counts", count, 0) for count in held["counts"])
        captions = tuple(one for one in held["captions"] if isinstance(one, str))
        if len(captions) != len(held["captions"]) or plan["null"] not in ("zeros", "empty") or not sum(counts):
            raise ValueError("it has another form")
        per_shard = whole("per_shard", plan["per_shard"], 1)
        return Index(plan, parts, (channels, height, width), counts, captions, per_shard, bool(plan["flips"]))
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{folder / INDEX} is not the index of cached latents; remove the folder and cache them again.") from None


def _range(value: Any) -> tuple[int, int]:
    first, last = (whole("a place", one, 0) for one in value)
    return first, last
