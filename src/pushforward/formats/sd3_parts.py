"""The networks of Stable Diffusion 3 from stored tensors: sizes are inferred from them, and no tensor is in memory twice."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from pushforward.errors import CheckpointError, NoCheckpointError
from pushforward.formats.sd3_fill import filled
from pushforward.formats.sd3_find import setting
from pushforward.formats.sd3_names import Layout, autoencoder_sources, count, transformer_sources
from pushforward.formats.sd3_stated import GROUPS, HEAD, SCALE, SHIFT
from pushforward.formats.tensor_file import Stored
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.eight_bits import Weights
from pushforward.nn.mmdit import MMDiT

# Blocks and heads of the public models, by the features that distinguish them: QK normalisation and a second attention.
PUBLIC = {(False, False): ("SD3 medium", 24), (True, True): ("SD3.5 medium", 24), (True, False): ("SD3.5 large", 38)}


def variant(net: MMDiT) -> str:
    """Return the public model that a transformer matches, with its sizes if they differ."""
    image = net.blocks[0].get_submodule("image")
    heads = int(image.attention.heads)
    second = any(block.get_submodule("image").second is not None for block in net.blocks)
    kind = (image.attention.norm_q is not None, second)
    if kind not in PUBLIC:
        return f"unknown variant of SD3.5 medium ({len(net.blocks)} blocks, {heads} heads)"
    name, size = PUBLIC[kind]
    same = (len(net.blocks), heads) == (size, size)
    return name if same else f"{name} ({len(net.blocks)} blocks, {heads} heads)"


def read_transformer(
    stored: Stored,
    layout: Layout,
    config: Mapping[str, Any],
    dtype: torch.dtype | None,
    device: torch.device | str,
    weights: Weights = "full",
) -> MMDiT:
    """Build the transformer from stored tensors.

    Args:
        stored: its tensors, without prefix.
        layout: their naming scheme.
        config: diffusers' config.json, of which only entries that tensors do not determine are used; may be empty.
        dtype: dtype of the weights; None uses the most common stored one, bfloat16 for 8 bits. Positions keep their stored dtype.
        device: device of the tensors.
        weights: how the weights of the blocks are kept.

    Raises:
        CheckpointError: tensors are missing or have wrong shapes; the message gives the first, with the closest variant.
    """
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
    head = stored.shape(norm)[0] if norm in stored else int(setting(config, "attention_head_dim", HEAD))
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
    looks = f"it looks like {variant(net)}"
    return filled(net, stored, transformer_sources(net, layout), dtype, device, looks, kept=("positions",), weights=weights)


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
            groups=int(setting(config, "norm_num_groups", GROUPS)),
            scale=setting(config, "scaling_factor", SCALE),
            shift=setting({"shift_factor": config.get("shift_factor") or 0.0}, "shift_factor", 0.0) if config else SHIFT,
        )
    return filled(net, stored, autoencoder_sources(net, layout), dtype, device, f"it looks like an autoencoder of widths {widths}")
