"""Files of Stable Diffusion 3 and 3.5: the original single .safetensors, and diffusers folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import NoCheckpointError, UserError
from pushforward.formats.gguf_file import GGUFFile
from pushforward.formats.scaled import check_quantisation
from pushforward.formats.sd3_fill import usual_dtype
from pushforward.formats.sd3_find import (
    ENCODERS,
    TOKENIZERS,
    encoder_files,
    folder_part,
    is_sd3,
    layout_of,
    open_tensors,
    read_json,
    shapes_checked,
    split,
)
from pushforward.formats.sd3_parts import read_autoencoder, read_transformer, variant
from pushforward.formats.sd3_stated import read_stated
from pushforward.formats.tensor_file import Stored
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.eight_bits import Weights, checked_weights
from pushforward.nn.mmdit import MMDiT
from pushforward.registry import export

PARTS = ("transformer", "vae", "text_encoders")


@export("formats.SD3Files")
@dataclass(frozen=True, eq=False)
class SD3Files:
    """The content of Stable Diffusion 3 files; parts that are missing or were not requested are None or empty.

    Args:
        transformer: the MMDiT.
        vae: the autoencoder.
        text_encoders: tensors of "clip_l", "clip_g" and "t5" under transformers' names, memory-mapped in their stored dtype, with
            the scales of 8-bit weights; of a GGUF file in memory, in 16 bits unless it holds floats.
        text_configs: their config.json, empty if the file has none.
        tokenizers: tokenizer folders under the same names.
        scheduler: settings of the scheduler, such as shift; empty if the file has none.
        variant: the public model that the transformer matches, such as "SD3.5 medium", with its sizes if they differ.
    """

    transformer: MMDiT | None = None
    vae: AutoencoderKL | None = None
    text_encoders: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    text_configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokenizers: dict[str, Path] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    variant: str = ""


@export("formats.read_sd3")
def read_sd3(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    parts: Sequence[str] = PARTS,
    text_encoders: str | Path | Sequence[str | Path] | Mapping[str, str | Path] | None = None,
    transformer: str | Path | None = None,
    file_variant: str | None = None,
    weights: Weights = "full",
) -> SD3Files:
    """Read a Stable Diffusion 3 or 3.5 from a single .safetensors file or a diffusers folder; sizes are inferred from the tensors.

    Weights are memory-mapped; only tensors whose layout or dtype changes are copied, once. The file must therefore not be modified
    while the model is in use (replacing it is fine). Pickles are never opened.

    Args:
        path: the file, or the folder with transformer/, vae/ and so on (or with one single file in it).
        dtype: dtype of transformer and VAE; None keeps the stored one, bfloat16 for 8 bits. The position table keeps its own.
        device: device of transformer and VAE.
        parts: the parts to read, from "transformer", "vae" and "text_encoders".
        text_encoders: separate text encoder files, or a folder of them, used instead of those in `path`: .safetensors, or .gguf of T5.
        transformer: a separate file of the transformer, used instead of that in `path`: .safetensors or .gguf.
        file_variant: preferred file variant of a folder, such as "fp16".
        weights: how the transformer keeps the weights of its blocks: "full" is in `dtype`, "fp8" and "int8" are 8 bits with a scale for
            each row, widened at each use. 8-bit floats in the file keep their bits with "fp8".

    Returns:
        The parts.

    Raises:
        NoCheckpointError: the file does not exist or is not a Stable Diffusion 3.
        CheckpointError: it is truncated, or tensors or shards are missing.
        UserError: an unknown part.

    Example:
        >>> read_sd3("my.safetensors")
        Traceback (most recent call last):
        pushforward.errors.NoCheckpointError: there is no file or folder my.safetensors; give a .safetensors file or a diffusers folder.

    Source: Stability-AI's sd3.5 and sd3-ref (single file), diffusers' convert_sd3_transformer_checkpoint_to_diffusers (folder).
    """
    path = Path(path)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise UserError(f"parts has {unknown[0]!r}, but the parts are {', '.join(PARTS)}.")
    if not path.exists():
        raise NoCheckpointError(f"there is no file or folder {path}; give a .safetensors file or a diffusers folder.")
    checked_weights(weights)
    stored, folder = _stored(path, parts, file_variant)
    if transformer is not None and "transformer" in parts:
        stored["transformer"] = _transformer(Path(transformer))
    encoders = {name: stored[name] for name in ENCODERS if name in stored}
    if text_encoders is not None and "text_encoders" in parts:
        for name, file in encoder_files(text_encoders).items():
            encoders[name] = Stored.of(file, {file: open_tensors(file)})
    for one in (*stored.values(), *encoders.values()):
        check_quantisation(one)
    configs = read_stated({**stored, **encoders}) if folder is None else _configs(folder, [*stored, *encoders])
    net = vae = None
    if "transformer" in stored and "transformer" in parts:
        config = configs.get("transformer", {})
        with shapes_checked(f"{path}: the transformer"):
            net = read_transformer(stored["transformer"], layout_of(stored["transformer"]), config, dtype, device, weights)
    if "vae" in stored and "vae" in parts:
        config = configs.get("vae", {})
        with shapes_checked(f"{path}: the autoencoder"):
            vae = read_autoencoder(stored["vae"], layout_of(stored["vae"]), config, dtype, device)
    with_text = "text_encoders" in parts
    return SD3Files(
        net,
        vae,
        {name: _held(one, dtype) for name, one in encoders.items()} if with_text else {},
        {name: configs.get(name, {}) for name in encoders} if with_text else {},
        {name: folder / one for name, one in TOKENIZERS.items() if (folder / one).is_dir()} if folder else {},
        read_json(folder / "scheduler" / "scheduler_config.json") if folder else configs.get("scheduler", {}),
        "" if net is None else variant(net),
    )


def _configs(folder: Path, parts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the config.json of each part of a diffusers folder."""
    return {part: read_json(folder / ENCODERS.get(part, part) / "config.json") for part in parts}


def _held(stored: Stored, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return the tensors of a text encoder: memory-mapped, or those of a GGUF file in one dtype, that of most of them by default."""
    if not any(isinstance(file, GGUFFile) for file, _ in stored.places.values()):
        return {name: stored.mapped(name) for name in stored}
    tensors = {name: torch.empty(stored.shape(name), dtype=dtype or usual_dtype(stored, stored.places)) for name in stored}
    for name, one in tensors.items():
        stored.read_into(name, one)
    return tensors


def _transformer(path: Path) -> Stored:
    """Return the stored tensors of a transformer in a file of its own."""
    found = split(Stored.of(path, {path: open_tensors(path)}))
    if "transformer" not in found:
        raise NoCheckpointError(f"transformer is {path}, which holds none; give a .safetensors or .gguf file of SD3's transformer.")
    return found["transformer"]


def _stored(path: Path, parts: Sequence[str], file_variant: str | None) -> tuple[dict[str, Stored], Path | None]:
    """Return the stored tensors of each part, and the folder with their settings."""
    if path.is_file():
        return split(Stored.of(path, {path: open_tensors(path)})), None
    names = {"transformer": "transformer", "vae": "vae", **ENCODERS}
    there = {name: path / one for name, one in names.items() if (path / one).is_dir()}
    if "transformer" in there or ("vae" in there and "transformer" not in parts):
        wanted = [name for name in there if ("text_encoders" if name in ENCODERS else name) in parts]
        stored = {name: folder_part(there[name], file_variant) for name in wanted}
        if not is_sd3(stored.get("transformer")):
            raise NoCheckpointError(f"{path} is not a Stable Diffusion 3: {_kind(path)}; give a folder of SD3 or SD3.5.")
        return stored, path
    single = sorted(path.glob("*.safetensors"))
    if (path / "model_index.json").is_file() or not single:
        raise NoCheckpointError(
            f"{path} is not a Stable Diffusion 3: {_kind(path)}; give a folder of SD3 or SD3.5, or a .safetensors file."
        )
    if len(single) > 1 and not any(path.glob("*.safetensors.index*.json")):
        raise NoCheckpointError(f"{path} holds {len(single)} .safetensors files; give one of them, such as {single[0].name}.")
    return split(folder_part(path, file_variant)), None


def _kind(path: Path) -> str:
    named = read_json(path / "model_index.json").get("_class_name") or read_json(path / "transformer" / "config.json").get("_class_name")
    return f"it holds a {named}" if named else "it has no folder transformer"
