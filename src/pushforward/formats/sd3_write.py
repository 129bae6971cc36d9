"""Writes Stable Diffusion 3: the original single .safetensors, or a diffusers folder that diffusers can load."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.formats.eight_bits_write import (
    Narrow,
    Tensors,
    check_narrow,
    check_without_scales,
    described,
    encoder_layers,
    held,
    narrowed,
)
from pushforward.formats.files import check_replaceable, write_atomically, write_folder
from pushforward.formats.sd3 import SD3Files
from pushforward.formats.sd3_find import ENCODERS, TOKENIZERS, check_written_as
from pushforward.formats.sd3_names import LAYOUTS, Layout, Source, autoencoder_sources, module_sources
from pushforward.formats.sd3_stated import stated_settings
from pushforward.formats.tensor_file import write_tensors
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.eight_bits import layer_linears
from pushforward.nn.joint_block import Stream
from pushforward.nn.mmdit import MMDiT
from pushforward.registry import export

PREFIXES = {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl"}
CLASSES = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_3": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
    "tokenizer_3": ("transformers", "T5TokenizerFast"),
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}
INDEX = "model_index.json"
PROJECTION = "text_projection.weight"


@export("formats.write_sd3")
def write_sd3(path: str | Path, files: SD3Files, layout: Layout = "single", *, weights: Narrow | None = None) -> Path:
    """Write a Stable Diffusion 3 to a single file or a diffusers folder, each part in its current dtype.

        weight = values scale

    of weights in 8 bits, which are written as `layer.weight`, `layer.weight_scale` and `layer.comfy_quant`, the names of ComfyUI.
    The write is atomic, and `read_sd3` restores the same bits. A single file holds no tokenizers; settings that differ from those of
    the public models, such as the autoencoder's scale, are in its header, which other programs do not read. CLIP-L's projection is
    omitted from it if it is the identity, and added to a folder if it is missing.

    Args:
        path: the .safetensors file, or the folder; one that holds anything else than a Stable Diffusion 3 is not replaced.
        files: the parts; those that are None or empty are skipped.
        layout: "single" or "diffusers".
        weights: "fp8" and "int8" write the weights of the layers of transformer and text encoders in 8 bits: floats with one scale for a
            tensor, or in a folder without scales, as diffusers knows none; integers with one scale for each row. None writes what is there;
            weights that are kept in 8 bits stay the bits that they are.

    Returns:
        The path.

    Raises:
        UserError: an unknown layout, nothing to write, a folder in use, a single file named as another format, a text encoder without the
            configuration that a folder needs, scales in a folder, or numbers that 8 bits do not hold.

    Example:
        >>> from pushforward.nn.mmdit import MMDiT
        >>> net = MMDiT((4, 8, 8), depth=1, heads=1, context_width=8, pooled_width=8, positions=4, null_tokens=1)
        >>> file = write_sd3("tiny.safetensors", SD3Files(net))
        >>> read = pf.formats.read_sd3(file).transformer
        >>> all(bool((a == b).all()) for a, b in zip(net.parameters(), read.parameters()))
        True
    """
    path = Path(path)
    if layout not in LAYOUTS:
        raise UserError(f"layout is {layout!r}, but it must be 'single' or 'diffusers'.")
    if files.transformer is None and files.vae is None and not files.text_encoders:
        raise UserError("files has no transformer, VAE or text encoders; give one of them.")
    check_narrow(weights)
    if layout == "single":
        check_written_as(path)
        made = _single(files, weights)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"format": "pt", **stated_settings(files)}
        write_atomically(path, lambda temporary: write_tensors(temporary, made, header))
        return path
    lacking = [name for name in files.text_encoders if not files.text_configs.get(name)]
    if lacking:
        raise UserError(f"text_configs lacks {lacking[0]}, which a diffusers folder needs; give its config.json as a mapping.")
    parts = _folder_parts(files, weights)
    check_replaceable(path, (*CLASSES, INDEX), INDEX)
    write_folder(path, lambda temporary: _fill(temporary, files, parts), manifest=False)
    return path


def _single(files: SD3Files, weights: Narrow | None) -> Tensors:
    found: Tensors = {}
    if files.transformer is not None:
        found |= _transformer(files.transformer, "single", weights, "model.diffusion_model.")
    if files.vae is not None:
        found |= dict(_stored(files.vae.state_dict(), autoencoder_sources(files.vae, "single"), "first_stage_model."))
    for kind, tensors in files.text_encoders.items():
        for name, make in _encoder(tensors, weights, scaled=True).items():
            if kind == "clip_l" and name == PROJECTION and _is_identity(tensors[name]):
                continue
            found[f"text_encoders.{PREFIXES[kind]}.transformer.{name}"] = make
    return found


def _transformer(net: MMDiT, layout: Layout, weights: Narrow | None, prefix: str = "") -> Tensors:
    """Return the tensors of a transformer by their stored names, with the scales of those in 8 bits."""
    own, scales = held(net)
    sources = module_sources(net, own, layout)
    _check_kept({own[key].dtype for key in scales}, weights)
    made: Tensors = dict(_stored(own, sources, prefix))
    for key, scale in scales.items():
        source = sources[key]
        for k, name in enumerate(source.names):
            stored = f"{prefix}{name}"
            made |= described(stored, made[stored], own[key].dtype, _ordered(scale, source).chunk(len(source.names))[k])
    layers = {f"{prefix}{name}" for path in layer_linears(net) for name in sources[f"{path}.weight"].names}
    return made if weights is None else narrowed(made, layers, weights, scaled=layout == "single")


def _encoder(tensors: Mapping[str, Tensor], weights: Narrow | None, scaled: bool) -> Tensors:
    """Return the tensors of a text encoder by their stored names."""
    layers = encoder_layers(tensors)
    _check_kept({tensors[name].dtype for name in layers if tensors[name].element_size() == 1}, weights)
    made: Tensors = {name: lambda tensor=tensor: tensor for name, tensor in tensors.items()}  # type: ignore[misc]
    return made if weights is None else narrowed(made, layers, weights, scaled)


def _check_kept(kinds: set[torch.dtype], weights: Narrow | None) -> None:
    """Raise if weights that are 8 bits already would be rounded to others."""
    if weights is not None and any((kind == torch.int8) != (weights == "int8") for kind in kinds):
        other = "fp8" if weights == "int8" else "int8"
        raise UserError(
            f"weights is {weights!r}, but the model keeps its weights as {other}, which would be rounded twice; leave weights= out, or "
            "load the model with weights='full'."
        )


def _is_identity(tensor: Tensor) -> bool:
    return bool((tensor.float() == torch.eye(*tensor.shape)).all())


def _stored(own: Mapping[str, Tensor], sources: Mapping[str, Source], prefix: str = "") -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield the stored names with functions that return the stored tensors, the inverse of reading."""
    for key, source in sources.items():
        for k, name in enumerate(source.names):

            def make(key: str = key, source: Source = source, k: int = k) -> Tensor:
                return _ordered(own[key], source).chunk(len(source.names))[k].reshape(source.shape)

            yield f"{prefix}{name}", make


def _ordered(tensor: Tensor, source: Source) -> Tensor:
    """Return a tensor with its halves as they are stored; bytes, as torch joins not every 8-bit float."""
    if not source.swapped:
        return tensor
    plain = tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
    return torch.cat(plain.chunk(2)[::-1]).view(tensor.dtype)


def _folder_parts(files: SD3Files, weights: Narrow | None) -> dict[str, tuple[Tensors, dict[str, Any]]]:
    """Return the tensors and the config.json of each network but the autoencoder by its folder."""
    parts: dict[str, tuple[Tensors, dict[str, Any]]] = {}
    check_without_scales((), weights)
    if files.transformer is not None:
        net = files.transformer
        parts["transformer"] = _transformer(net, "diffusers", weights), _transformer_config(net)
    for kind, tensors in files.text_encoders.items():
        config = files.text_configs[kind]
        made = _encoder(tensors, weights, scaled=False)
        if kind == "clip_l" and PROJECTION not in made:
            width, like = int(config["hidden_size"]), next(iter(tensors.values()))
            made[PROJECTION] = lambda width=width, like=like: torch.eye(width, dtype=like.dtype)  # type: ignore[misc]
        parts[ENCODERS[kind]] = made, config
    for made, _ in parts.values():
        check_without_scales(made, weights)
    return parts


def _fill(folder: Path, files: SD3Files, parts: Mapping[str, tuple[Tensors, Mapping[str, Any]]]) -> None:
    if files.vae is not None:
        (folder / "vae").mkdir()
        fill_autoencoder(folder / "vae", files.vae)
    for name, (made, config) in parts.items():
        (folder / name).mkdir()
        file = "model" if name in ENCODERS.values() else "diffusion_pytorch_model"
        write_tensors(folder / name / f"{file}.safetensors", made, {"format": "pt"})
        _write_json(folder / name / "config.json", config)
    for kind, source in files.tokenizers.items():
        shutil.copytree(source, folder / TOKENIZERS[kind])
    scheduler = files.scheduler or {"_class_name": CLASSES["scheduler"][1], "num_train_timesteps": 1000, "shift": 3.0}
    (folder / "scheduler").mkdir()
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    there = {name: list(kind) if (folder / name).is_dir() else [None, None] for name, kind in CLASSES.items()}
    _write_json(folder / INDEX, {"_class_name": "StableDiffusion3Pipeline", **there})


def fill_autoencoder(folder: Path, vae: AutoencoderKL) -> None:
    """Write an autoencoder's tensors and config.json into a folder, as diffusers names them."""
    tensors: Tensors = dict(_stored(vae.state_dict(), autoencoder_sources(vae, "diffusers")))
    write_tensors(folder / "diffusion_pytorch_model.safetensors", tensors, {"format": "pt"})
    _write_json(folder / "config.json", _autoencoder_config(vae))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _transformer_config(net: MMDiT) -> dict[str, Any]:
    streams = [block.image for block in net.blocks]
    first = streams[0]
    assert isinstance(first, Stream)
    return {
        "_class_name": CLASSES["transformer"][1],
        "sample_size": net.shape[1],
        "patch_size": net.patch,
        "in_channels": net.channels,
        "out_channels": net.channels,
        "num_layers": len(streams),
        "num_attention_heads": first.attention.heads,
        "attention_head_dim": net.width // first.attention.heads,
        "joint_attention_dim": net.context_width,
        "caption_projection_dim": net.width,
        "pooled_projection_dim": net.pooled_width,
        "pos_embed_max_size": int(len(net.positions) ** 0.5),
        "qk_norm": None if first.attention.norm_q is None else "rms_norm",
        "dual_attention_layers": [k for k, stream in enumerate(streams) if isinstance(stream, Stream) and stream.second is not None],
    }


def _autoencoder_config(vae: AutoencoderKL) -> dict[str, Any]:
    levels = len(vae.widths)
    return {
        "_class_name": CLASSES["vae"][1],
        "in_channels": vae.channels,
        "out_channels": vae.channels,
        "latent_channels": vae.latent_channels,
        "block_out_channels": list(vae.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": vae.blocks,
        "norm_num_groups": vae.groups,
        "scaling_factor": vae.scale,
        "shift_factor": vae.shift,
        "sample_size": 1024,
        "force_upcast": True,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
