"""CLIP and T5 as transformers modules, built on the meta device with sizes inferred from their tensors.

A single file holds no configuration, so widths, depths and vocabularies are inferred from the tensors; everything else is fixed to the
values of Stable Diffusion 3's encoders: heads of 64 channels, the activations, CLIP-L's identity instead of a projection.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pushforward._checks import shown
from pushforward.errors import CheckpointError, UserError
from pushforward.formats.scaled import scale_name, scale_of
from pushforward.formats.sd3_find import shapes_checked
from pushforward.nn.eight_bits import FLOAT8, Weights, keep, layer_linears, quantised, widened

ENCODERS = {"clip_l": "CLIP-L", "clip_g": "CLIP-G", "t5": "T5"}
ACTIVATIONS = {"clip_l": "quick_gelu", "clip_g": "gelu"}
HEAD = 64
STRAY = {"logit_scale", "text_model.embeddings.position_ids"}
T5_NAMES = ("shared.weight", "encoder.embed_tokens.weight")  # the same table under either name, or under both


def text_encoder(
    kind: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    weights: Weights = "full",
) -> nn.Module:
    """Return a transformers text encoder with these tensors, in eval mode.

    Args:
        kind: "clip_l", "clip_g" or "t5".
        tensors: weights under transformers' names; used without a copy if dtype and device do not change.
        config: a folder's config.json; None or {} infers sizes from the tensors.
        dtype: dtype of the weights; None is the stored one, that of most of them if there are several, bfloat16 where some are in 8 bits.
        device: target device.
        weights: how the weights of the layers are kept.

    Raises:
        CheckpointError: tensors are missing or have a wrong shape; the message gives the first.
        UserError: transformers is not installed.
    """
    transformers = imported_transformers()
    check_no_kernels(f"the text encoder {ENCODERS[kind]}", config)
    tensors = {name: one for name, one in tensors.items() if name not in STRAY}
    dtype = dtype or _common_dtype(tensors)
    with shapes_checked(f"the text encoder {ENCODERS[kind]}"):
        if kind == "t5":
            table = next((tensors[name] for name in T5_NAMES if name in tensors), None)
            if table is not None:
                tensors |= dict.fromkeys(T5_NAMES, table)
            settings = transformers.T5Config(**(dict(config) if config else t5_config(tensors)))
            make, depth = transformers.T5EncoderModel, settings.num_layers
        else:
            width = _first(tensors, "text_model.embeddings.token_embedding.weight", kind).shape[1]
            if "text_projection.weight" not in tensors:
                tensors["text_projection.weight"] = torch.eye(width, dtype=_compute_dtype(next(iter(tensors.values())).dtype, dtype))
            settings = transformers.CLIPTextConfig(**(dict(config) if config else clip_config(tensors, kind)))
            settings.projection_dim = tensors["text_projection.weight"].shape[0]
            make, depth = transformers.CLIPTextModelWithProjection, settings.num_hidden_layers
        if depth > len(tensors):
            raise CheckpointError(
                f"the text encoder {ENCODERS[kind]} has {depth} layers, but only {len(tensors)} tensors; download it again."
            )
        with torch.device("meta"):
            model = make(settings)
    _assign(model, tensors, kind, dtype, device, weights)
    return model.eval().requires_grad_(False)


def imported_transformers() -> Any:
    """Return the module transformers, or raise with installation instructions."""
    try:
        import transformers
    except ImportError:
        raise UserError("the text encoders need transformers, which is not installed; run: pip install 'pushforward[sd3]'.") from None
    return transformers


def check_no_kernels(where: object, config: Any) -> None:
    """Raise if a config.json names code that transformers would download and run: attention from a repository of kernels.

    Raises:
        CheckpointError: it does, at any depth.
    """
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if str(key).endswith("_implementation") and "/" in str(value):
            named = f"{where} states {key} {shown(value)}"
            raise CheckpointError(f"{named}, code of a repository, which is never run; remove it from config.json.")
        for one in value if isinstance(value, list) else [value]:
            check_no_kernels(where, one)


def clip_config(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Any]:
    """Return the configuration of a CLIP text encoder with these tensors."""
    vocabulary, width = _first(tensors, "text_model.embeddings.token_embedding.weight", kind).shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _first(tensors, "text_model.encoder.layers.0.mlp.fc1.weight", kind).shape[0],
        "num_hidden_layers": _count(tensors, r"text_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // HEAD),
        "max_position_embeddings": _first(tensors, "text_model.embeddings.position_embedding.weight", kind).shape[0],
        "hidden_act": ACTIVATIONS[kind],
        "bos_token_id": 0,  # unused, but validated against the vocabulary
        "eos_token_id": 2,  # transformers' convention: the end token is the first occurrence of the largest id
    }


def t5_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the configuration of a T5 encoder with these tensors."""
    vocabulary, width = _first(tensors, T5_NAMES[0], "t5").shape
    buckets, heads = _first(tensors, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "t5").shape
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": _first(tensors, "encoder.block.0.layer.0.SelfAttention.q.weight", "t5").shape[0] // heads,
        "d_ff": _first(tensors, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "t5").shape[0],
        "num_layers": _count(tensors, r"encoder\.block\.(\d+)\."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


def _assign(
    model: nn.Module, tensors: Mapping[str, Tensor], kind: str, dtype: torch.dtype | None, device: torch.device | str, weights: Weights
) -> None:
    own = model.state_dict()
    _check(own, tensors, kind)
    moved: dict[int, Tensor] = {}  # tied weights stay tied

    def wanted(name: str, tensor: Tensor) -> torch.dtype:
        wide = _compute_dtype(tensor.dtype, dtype)
        # its outputs exceed float16's range
        return torch.float32 if kind == "t5" and wide == torch.float16 and name.endswith("DenseReluDense.wo.weight") else wide

    def placed(name: str, tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            moved[id(tensor)] = _wide(tensors, name, wanted(name, tensor), kind).to(device)
        return moved[id(tensor)]

    small = {} if weights == "full" else {f"{path}.weight": one for path, one in layer_linears(model).items()}
    with torch.no_grad():
        model.load_state_dict({name: placed(name, tensors[name]) for name in own if name not in small}, assign=True, strict=not small)
        for name, linear in small.items():
            values, scale = _in_8_bits(tensors, name, kind, weights)
            keep(linear, values.to(device), scale.to(device), wanted(name, tensors[name]))
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:  # CLIP's position ids, which files may omit
                assert name == "position_ids", name
                module.register_buffer(name, torch.arange(buffer.shape[-1], device=device)[None], persistent=False)


def _check(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], kind: str) -> None:
    """Raise unless there is a tensor of floats, or of 8 bits with a scale, for each of the model's own."""
    missing = sorted(own.keys() - tensors.keys())
    shapes = [key for key in sorted(own.keys() & tensors.keys()) if own[key].shape != tensors[key].shape]
    if missing or shapes:
        what = f"{missing[0]} is missing" if missing else ""
        if not missing:
            what = f"{shapes[0]} has shape {tuple(tensors[shapes[0]].shape)} instead of {tuple(own[shapes[0]].shape)}"
        raise CheckpointError(
            f"the text encoder {ENCODERS[kind]} is not complete: {what} (of {len(own)} tensors); download the file again."
        )
    for key in sorted(own):
        stored = tensors[key].dtype
        if not stored.is_floating_point and not (stored == torch.int8 and scale_name(key, tensors)):
            raise CheckpointError(
                f"the text encoder {ENCODERS[kind]} stores {key} as {stored}, but weights are floats; convert the file to bfloat16."
            )


def _scale(tensors: Mapping[str, Tensor], name: str, kind: str) -> Tensor | None:
    named = scale_name(name, tensors)
    return None if named is None else scale_of(f"the text encoder {ENCODERS[kind]}", named, tensors[named], len(tensors[name]))


def _wide(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, kind: str) -> Tensor:
    """Return a weight in a dtype of computation, with its scale applied."""
    scale = _scale(tensors, name, kind)
    return tensors[name].to(dtype) if scale is None else widened(tensors[name], scale, torch.promote_types(dtype, torch.float32)).to(dtype)


def _in_8_bits(tensors: Mapping[str, Tensor], name: str, kind: str, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return a weight in 8 bits with its scales: the stored bits if they are of this kind, else quantised."""
    stored = tensors[name]
    if stored.dtype in (FLOAT8 if weights == "fp8" else (torch.int8,)):
        scale = _scale(tensors, name, kind)
        return stored, (torch.ones(1, 1) if scale is None else scale).expand(len(stored), 1).contiguous()
    return quantised(_wide(tensors, name, torch.float32, kind), weights)


def _common_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype | None:
    """Return the dtype of all weights, as a layer computes in one: that of most, bfloat16 where some are in 8 bits."""
    counts: Counter[torch.dtype] = Counter()
    for one in tensors.values():
        if one.dtype in FLOAT8 or one.dtype == torch.int8:
            return torch.bfloat16
        if one.is_floating_point():
            counts[one.dtype] += one.numel()
    return counts.most_common(1)[0][0] if counts else None


def _compute_dtype(stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    if wanted is not None:
        return wanted
    return torch.bfloat16 if stored.itemsize == 1 else stored


def _first(tensors: Mapping[str, Tensor], name: str, kind: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"the text encoder {ENCODERS[kind]} is not complete: {name} is missing; download the file again.")
    return tensors[name]


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})
