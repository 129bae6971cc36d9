"""Tensor names of Stable Diffusion 3: in this library, in the original single file, and in a diffusers folder.

They follow Stability-AI's sd3.5 (mmditx.py, sd3_impls.py) and diffusers' conversion of SD3 checkpoints.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.mmdit import MMDiT

Layout = Literal["single", "diffusers"]
LAYOUTS: tuple[Layout, ...] = ("single", "diffusers")
Table = Mapping[str, tuple[str, str]]

_STREAMS = (
    ("image", "x_block", "attn.to_{q,k,v}", "attn.to_out.0", "attn.norm_", "norm1.linear", "ff.net"),
    ("text", "context_block", "attn.add_{q,k,v}_proj", "attn.to_add_out", "attn.norm_added_", "norm1_context.linear", "ff_context.net"),
)
# Our names to (single file, diffusers); * is a number, {q,k,v} are three stacked tensors. Applies to weights and biases.
TRANSFORMER: Table = {
    "positions": ("pos_embed", "pos_embed.pos_embed"),
    "first": ("x_embedder.proj", "pos_embed.proj"),
    "time.0": ("t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"),
    "time.2": ("t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"),
    "pooled.0": ("y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    "pooled.2": ("y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"),
    "context": ("context_embedder", "context_embedder"),
    "modulation": ("final_layer.adaLN_modulation.1", "norm_out.linear"),
    "last": ("final_layer.linear", "proj_out"),
    **{
        f"blocks.*.{own}.{part}": (f"joint_blocks.*.{original}.{single}", f"transformer_blocks.*.{diffusers}")
        for own, original, qkv, out, norm, modulation, mlp in _STREAMS
        for part, single, diffusers in (
            ("modulation", "adaLN_modulation.1", modulation),
            ("attention.qkv", "attn.qkv", qkv),
            ("attention.out", "attn.proj", out),
            ("attention.norm_q", "attn.ln_q", f"{norm}q"),
            ("attention.norm_k", "attn.ln_k", f"{norm}k"),
            ("second.qkv", "attn2.qkv", "attn2.to_{q,k,v}"),
            ("second.out", "attn2.proj", "attn2.to_out.0"),
            ("second.norm_q", "attn2.ln_q", "attn2.norm_q"),
            ("second.norm_k", "attn2.ln_k", "attn2.norm_k"),
            ("mlp.0", "mlp.fc1", f"{mlp}.0.proj"),
            ("mlp.2", "mlp.fc2", f"{mlp}.2"),
        )
    },
}

_RESIDUAL = (
    ("norm1", "norm1", "norm1"),
    ("conv1", "conv1", "conv1"),
    ("norm2", "norm2", "norm2"),
    ("conv2", "conv2", "conv2"),
    ("short", "nin_shortcut", "conv_shortcut"),
)
# ~ is a number counted from the other end: the original numbers the decoder's levels starting at the image.
AUTOENCODER: Table = {
    **{
        f"{half}.{own}": (f"{half}.{original}", f"{half}.{diffusers}")
        for half in ("encoder", "decoder")
        for own, original, diffusers in (
            ("first", "conv_in", "conv_in"),
            ("norm", "norm_out", "conv_norm_out"),
            ("last", "conv_out", "conv_out"),
            ("middle.1.norm", "mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
            ("middle.1.qkv", "mid.attn_1.{q,k,v}", "mid_block.attentions.0.to_{q,k,v}"),
            ("middle.1.out", "mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
            *((f"middle.0.{a}", f"mid.block_1.{b}", f"mid_block.resnets.0.{c}") for a, b, c in _RESIDUAL),
            *((f"middle.2.{a}", f"mid.block_2.{b}", f"mid_block.resnets.1.{c}") for a, b, c in _RESIDUAL),
        )
    },
    **{f"encoder.levels.*.blocks.*.{a}": (f"encoder.down.*.block.*.{b}", f"encoder.down_blocks.*.resnets.*.{c}") for a, b, c in _RESIDUAL},
    **{f"decoder.levels.*.blocks.*.{a}": (f"decoder.up.~.block.*.{b}", f"decoder.up_blocks.*.resnets.*.{c}") for a, b, c in _RESIDUAL},
    "encoder.levels.*.change": ("encoder.down.*.downsample.conv", "encoder.down_blocks.*.downsamplers.0.conv"),
    "decoder.levels.*.change": ("decoder.up.~.upsample.conv", "decoder.up_blocks.*.upsamplers.0.conv"),
}


@dataclass(frozen=True)
class Source:
    """Source of one of our tensors in a file: the stored tensors, stacked along the first axis, and their stored shapes.

    `swapped` exchanges the two halves: modulations by two vectors are (shift, scale) here and in the single file, and (scale,
    shift) in a diffusers folder. Those of six or nine are the same in both.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    swapped: bool = False


def transformer_sources(net: MMDiT, layout: Layout) -> dict[str, Source]:
    """Return the source of each tensor in the transformer's state_dict, by stored names without prefix."""
    return module_sources(net, net.state_dict(), layout)


def module_sources(net: MMDiT, tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Source]:
    """Return the source of some tensors of a transformer, by their names in its state_dict; only shapes are read."""
    shapes = {"positions": (1, *net.positions.shape), "first.weight": (net.width, net.channels, net.patch, net.patch)}
    swapped = ("modulation", f"blocks.{len(net.blocks) - 1}.text.modulation") if layout == "diffusers" else ()
    return _sources(tensors, TRANSFORMER, layout, shapes, swapped)


def autoencoder_sources(vae: AutoencoderKL, layout: Layout) -> dict[str, Source]:
    """Return the source of each tensor in the autoencoder's state_dict, by stored names without prefix."""
    own = vae.state_dict()
    shapes = {}
    if layout == "single":  # its attention consists of 1x1 convolutions
        for key, tensor in own.items():
            if ".middle.1." in key and tensor.ndim == 2:
                shapes[key] = (tensor.shape[1], tensor.shape[1], 1, 1)
    return _sources(own, AUTOENCODER, layout, shapes, ())


def _sources(
    own: Mapping[str, Tensor], table: Table, layout: Layout, shapes: Mapping[str, tuple[int, ...]], swapped: Iterable[str]
) -> dict[str, Source]:
    levels = count(own, "decoder.levels")
    found = {}
    for key, tensor in own.items():
        module, kind = (key, "") if key in table else key.rpartition(".")[::2]
        numbers = re.findall(r"(?:blocks|levels)\.(\d+)", module)
        stored = table[re.sub(r"(blocks|levels)\.\d+", r"\1.*", module)][LAYOUTS.index(layout)]
        for number in numbers:
            place = re.search(r"[*~]", stored)
            assert place is not None
            stored = stored[: place.start()] + (number if place[0] == "*" else str(levels - 1 - int(number))) + stored[place.end() :]
        names = [re.sub(r"\{.*\}", one, stored) for one in "qkv"] if "{" in stored else [stored]
        shape = shapes.get(key, (tensor.shape[0] // len(names), *tensor.shape[1:]))
        found[key] = Source(tuple(f"{name}.{kind}" if kind else name for name in names), shape, module in swapped)
    return found


def count(keys: Iterable[str], under: str) -> int:
    """Return the number of distinct indices after `under` in the keys, such as the number of blocks."""
    return len({found[1] for found in (re.match(rf"{re.escape(under)}\.(\d+)\.", key) for key in keys) if found})
