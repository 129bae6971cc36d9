"""The networks of Stable Diffusion 3 from stored tensors: sizes are inferred from them, and no tensor is in memory twice."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pushforward.errors import CheckpointError, NoCheckpointError, UserError
from pushforward.formats.sd3_find import setting
from pushforward.formats.sd3_names import Layout, Source, autoencoder_sources, count, transformer_sources
from pushforward.formats.tensor_file import Stored
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.mmdit import MMDiT

N = TypeVar("N", bound=nn.Module)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)

# Blocks and heads of the public models, by the features that distinguish them: QK normalisation and a second attention.
PUBLIC = {(False, False): ("SD3 medium", 24), (True, True): ("SD3.5 medium", 24), (True, False): ("SD3.5 large", 38)}


def variant(net: MMDiT) -> str:
    """Return the public model that a transformer matches, with its sizes if they differ."""
    image = net.blocks[0].get_submodule("image")
    heads = int(image.attention.heads)  # type: ignore[union-attr, arg-type]
    second = any(block.get_submodule("image").second is not None for block in net.blocks)
    kind = (image.attention.norm_q is not None, second)  # type: ignore[union-attr]
    if kind not in PUBLIC:
        return f"unknown variant of SD3.5 medium ({len(net.blocks)} blocks, {heads} heads)"
    name, size = PUBLIC[kind]
    same = (len(net.blocks), heads) == (size, size)
    return name if same else f"{name} ({len(net.blocks)} blocks, {heads} heads)"


def read_transformer(
    stored: Stored, layout: Layout, config: Mapping[str, Any], dtype: torch.dtype | None, device: torch.device | str
) -> MMDiT:
    """Build the transformer from stored tensors.

    Args:
        stored: its tensors, without prefix.
        layout: their naming scheme.
        config: diffusers' config.json, of which only entries that tensors do not determine are used; may be empty.
        dtype: dtype of the weights; None uses the most common stored one, bfloat16 for 8 bits. Positions keep their stored dtype.
        device: device of the tensors.

    Raises:
        CheckpointError: tensors are missing or have wrong shapes; the message gives the first, with the closest variant.
    """
    if any(name.endswith((".scale_weight", ".weight_scale")) or name == "scaled_fp8" for name in stored):
        raise NoCheckpointError(f"{stored.where} holds 8-bit weights with separate scales, which are not supported; use the unscaled file.")
    names = _TRANSFORMER_ANCHORS[layout]
    first, positions = stored.shape(names["first"]), stored.shape(names["positions"])
    block = names["block"]
    mlp = stored.shape(f"{block}0.{names['mlp']}")
    under = block.rstrip(".")
    depth = 1 + max(int(found[1]) for found in (re.match(rf"{re.escape(block)}(\d{{1,9}})\.", name) for name in stored) if found)
    if depth > len(stored):
        raise CheckpointError(f"{stored.where} has a block {depth - 1} of {under}, but only {len(stored)} tensors; download it again.")
    second = [k for k in range(depth) if f"{block}{k}.{names['second']}" in stored]
    if len(first) != 4 or len(positions) != 3 or len(mlp) != 2:
        raise CheckpointError(
            f"{stored.where}: {names['first']} is {first}, {names['positions']} {positions}, which does not match any SD3."
        )
    norm = f"{block}0.{names['norm']}"
    head = stored.shape(norm)[0] if norm in stored else int(setting(config, "attention_head_dim", 64))
    side = int(setting(config, "sample_size", 128))
    with torch.device("meta"):
        net = MMDiT(
            (first[1], side, side),
            patch=first[2],
            depth=depth,
            heads=first[0] // head,
            head_width=head,
            context_width=stored.shape(names["context"])[1],
            pooled_width=stored.shape(names["pooled"])[1],
            positions=math.isqrt(positions[1]),
            qk_norm=norm in stored,
            dual=len(second) if second == list(range(len(second))) else second,
            mlp_ratio=mlp[0] // mlp[1],
        )
    return _filled(net, stored, transformer_sources(net, layout), dtype, device, f"it looks like {variant(net)}", kept=("positions",))


_TRANSFORMER_ANCHORS: dict[Layout, dict[str, str]] = {
    "single": {
        "first": "x_embedder.proj.weight",
        "positions": "pos_embed",
        "block": "joint_blocks.",
        "context": "context_embedder.weight",
        "pooled": "y_embedder.mlp.0.weight",
        "mlp": "x_block.mlp.fc1.weight",
        "norm": "x_block.attn.ln_q.weight",
        "second": "x_block.attn2.qkv.weight",
    },
    "diffusers": {
        "first": "pos_embed.proj.weight",
        "positions": "pos_embed.pos_embed",
        "block": "transformer_blocks.",
        "context": "context_embedder.weight",
        "pooled": "time_text_embed.text_embedder.linear_1.weight",
        "mlp": "ff.net.0.proj.weight",
        "norm": "attn.norm_q.weight",
        "second": "attn2.to_q.weight",
    },
}


def read_autoencoder(
    stored: Stored, layout: Layout, config: Mapping[str, Any], dtype: torch.dtype | None, device: torch.device | str
) -> AutoencoderKL:
    """Build the autoencoder from stored tensors; arguments and errors are those of `read_transformer`.

    Without a config, scale and shift are those of Stable Diffusion 3, and normalisations have 32 groups.
    """
    if any(name.startswith(("quant_conv.", "post_quant_conv.")) for name in stored):
        raise NoCheckpointError(f"{stored.where} has a quant_conv, so it is the autoencoder of an older Stable Diffusion; SD3's has none.")
    level, block = ("encoder.down.", "block") if layout == "single" else ("encoder.down_blocks.", "resnets")
    levels = count(stored, level.rstrip("."))
    widths = tuple(stored.shape(f"{level}{k}.{block}.0.conv1.weight")[0] for k in range(levels))
    with torch.device("meta"):
        net = AutoencoderKL(
            stored.shape("encoder.conv_in.weight")[1],
            stored.shape("decoder.conv_in.weight")[1],
            widths,
            blocks=count(stored, f"{level}0.{block}"),
            groups=int(setting(config, "norm_num_groups", 32)),
            scale=setting(config, "scaling_factor", 1.5305),
            shift=setting({"shift_factor": config.get("shift_factor") or 0.0}, "shift_factor", 0.0) if config else 0.0609,
        )
    return _filled(net, stored, autoencoder_sources(net, layout), dtype, device, f"it looks like an autoencoder of widths {widths}")


def _filled(
    net: N,
    stored: Stored,
    sources: Mapping[str, Source],
    dtype: torch.dtype | None,
    device: torch.device | str,
    looks: str,
    kept: tuple[str, ...] = (),
) -> N:
    """Fill a network on the meta device with its tensors, and return it in eval mode."""
    expected = {name: source.shape for source in sources.values() for name in source.names}
    missing = [name for name in expected if name not in stored]
    if missing:
        raise CheckpointError(f"{stored.where} lacks {len(missing)} tensors ({looks}), first {missing[0]}; download or convert it again.")
    for name, shape in expected.items():
        if stored.entry(name).shape != shape:
            raise CheckpointError(f"{stored.where}: {name} is {stored.entry(name).shape}, but must be {shape} ({looks}).")
        stored_as = stored.entry(name).dtype
        if not stored_as.is_floating_point:
            raise CheckpointError(f"{stored.where}: {name} is stored as {stored_as}, but weights are floats; convert the file to bfloat16.")
    if dtype is not None and (not dtype.is_floating_point or dtype in FLOAT8):
        raise UserError(f"dtype is {dtype}, but weights must have a floating dtype for computation; use torch.bfloat16 or torch.float32.")
    common = usual_dtype(stored, expected)
    own = net.state_dict()
    tensors = {
        key: _tensor(stored, source, own[key].shape, _wanted(stored.entry(source.names[0]).dtype, dtype, common, key in kept)).to(device)
        for key, source in sources.items()
    }
    net.load_state_dict(tensors, assign=True)
    return net.eval()


def usual_dtype(stored: Stored, names: Mapping[str, Any]) -> torch.dtype:
    """Return the dtype of most stored bytes among the names; bfloat16 for 8-bit formats, which are storage only."""
    sizes: Counter[torch.dtype] = Counter()
    for name in names:
        sizes[stored.entry(name).dtype] += stored.entry(name).size
    common = sizes.most_common(1)[0][0]
    return torch.bfloat16 if common in FLOAT8 else common


def _wanted(here: torch.dtype, dtype: torch.dtype | None, common: torch.dtype, keep: bool) -> torch.dtype:
    return here if keep and here not in FLOAT8 else dtype or common


def _tensor(stored: Stored, source: Source, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return one tensor: memory-mapped if unchanged, else a new one filled without the map."""
    entries = [stored.entry(name) for name in source.names]
    if len(entries) == 1 and entries[0].dtype == dtype and not source.swapped:
        return stored.mapped(source.names[0]).view(shape)
    whole = torch.empty(shape, dtype=dtype)
    for name, part in zip(source.names, whole.chunk(len(entries)), strict=True):
        stored.read_into(name, part)
    return torch.cat(whole.chunk(2)[::-1]) if source.swapped else whole
