"""diffusers' `UNet2DModel` as `nn.UNet2D`: its config.json as settings, and its tensors under our names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import CheckpointError, ConfigError
from pushforward.formats.diffusers_entries import Entries
from pushforward.formats.diffusers_tensors import Tensors
from pushforward.nn.unet_2d import UNet2D

DOWN = {"DownBlock2D": "conv", "AttnDownBlock2D": "conv attention", "ResnetDownsampleBlock2D": "residual"}
UP = {"UpBlock2D": "conv", "AttnUpBlock2D": "conv attention", "ResnetUpsampleBlock2D": "residual"}
# Our names to theirs, applied in turn; {q,k,v} are three stacked tensors.
NAMES = (
    (r"^first\.", "conv_in."),
    (r"^time\.0\.", "time_embedding.linear_1."),
    (r"^time\.2\.", "time_embedding.linear_2."),
    (r"^label\.table\.", "class_embedding."),
    (r"^norm\.", "conv_norm_out."),
    (r"^last\.", "conv_out."),
    (r"^middle\.", "mid_block."),
    (r"^(down|up)\.(\d+)\.", r"\1_blocks.\2."),
    (r"^(down|up)(_blocks\.\d+)\.change\.", r"\1\2.\1samplers.0."),
    (r"\.blocks\.", ".resnets."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"\.attention\.qkv\.", ".to_{q,k,v}."),
    (r"\.attention\.out\.", ".to_out.0."),
    (r"\.time\.", ".time_emb_proj."),
    (r"\.skip\.", ".conv_shortcut."),
)
# Entries of a UNet2DConditionModel about attention to a text.
OF_TEXT = (
    "cross_attention_dim",
    "attention_head_dim",
    "num_attention_heads",
    "transformer_layers_per_block",
    "only_cross_attention",
    "mid_block_only_cross_attention",
    "attention_type",
    "dual_cross_attention",
    "use_linear_projection",
    "upcast_attention",
    "addition_embed_type_num_heads",
)
# What the attentions of old files are called.
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True)
class Described:
    """What a U-Net's config.json states.

    Args:
        net: its settings.
        shape: shape of an image.
        classes: number of classes, or None.
        outputs: output channels per image channel: 1, or 2 with a learned variance.
    """

    net: UNet2D.Config
    shape: tuple[int, int, int]
    classes: int | None
    outputs: int


def read_unet(config: Mapping[str, Any], where: Path, steps: int) -> Described:
    """Return what the config.json of a UNet2DModel, or of a UNet2DConditionModel whose blocks read no text, states.

    Args:
        config: its content.
        where: the file, for messages.
        steps: number of steps of the scheduler.

    Raises:
        ConfigError: another network, an unknown block, or an entry that is unknown or whose value has no counterpart.
    """
    name = config.get("_class_name")
    if name not in ("UNet2DModel", "UNet2DConditionModel"):
        raise ConfigError(f"{where} is of a {name}, but only UNet2DModel, and UNet2DConditionModel without text, are read here.")
    entries = Entries(config, where)
    side = entries.get("sample_size")
    height, width = side if isinstance(side, list) and len(side) == 2 else (side, side)
    for one in (height, width):
        if type(one) is not int or not 0 < one <= 65536:
            entries.refuse("sample_size", "an integer, or two")
    channels, out = entries.whole("in_channels", 3), entries.whole("out_channels", 3)
    if out not in (channels, 2 * channels):
        entries.refuse("out_channels", f"the {channels} of in_channels, or twice as many for a learned variance,")
    made = _settings(entries, steps) if name == "UNet2DModel" else _without_text(entries, steps)
    classes = entries.whole("num_class_embeds", None)
    entries.only(class_embed_type=None, time_embedding_type="positional", act_fn=("silu", "swish"))
    entries.ignore("num_train_timesteps")
    entries.finish()
    return Described(UNet2D.Config(**made), (channels, height, width), classes, out // channels)


def _shared(entries: Entries, steps: int, shift: int = 0) -> dict[str, Any]:
    """Return the settings of entries that both networks have."""
    modulated = entries.word("resnet_time_scale_shift", "default", ("default", "scale_shift")) == "scale_shift"
    return {
        "steps": steps,
        "modulated": modulated,
        "centred": entries.flag("center_input_sample", False),
        "depth": entries.whole("layers_per_block", 2),
        "groups": entries.whole("norm_num_groups", 32),
        "eps": entries.number("norm_eps", 1e-5),
        "dropout": entries.number("dropout", 0.0),
        "padding": entries.whole("downsample_padding", 1, 0),
        "features": entries.whole("time_embedding_dim", None),
        "sine_first": not entries.flag("flip_sin_to_cos", True),
        "frequency_shift": entries.number("freq_shift", shift),
    }


def _settings(entries: Entries, steps: int) -> dict[str, Any]:
    """Return the settings of a UNet2DModel."""
    return _shared(entries, steps) | {
        "channels": entries.sequence("block_out_channels", (224, 448, 672, 896)),
        "down": _levels(entries, "down", ("DownBlock2D", *("AttnDownBlock2D",) * 3), DOWN),
        "up": _levels(entries, "up", (*("AttnUpBlock2D",) * 3, "UpBlock2D"), UP),
        "head": entries.whole("attention_head_dim", None if "attention_head_dim" in entries.config else 8),
        "middle": 0 if entries.get("mid_block_type", "UNetMidBlock2D") is None else _middle(entries, 2),
        "middle_attention": entries.flag("add_attention", True),
        "middle_groups": entries.whole("attn_norm_num_groups", None),
        "middle_divisor": entries.number("mid_block_scale_factor", 1.0),
    }


def _without_text(entries: Entries, steps: int) -> dict[str, Any]:
    """Return the settings of a UNet2DConditionModel without attention to a text."""
    made = _shared(entries, steps) | {
        "channels": entries.sequence("block_out_channels", (320, 640, 1280, 1280)),
        "down": _levels(entries, "down", (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"), {one: DOWN[one] for one in list(DOWN)[::2]}),
        "up": _levels(entries, "up", ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3), {one: UP[one] for one in list(UP)[::2]}),
        "middle": 0 if entries.get("mid_block_type", "UNetMidBlock2DCrossAttn") is None else _middle(entries, 1),
        "middle_attention": False,
        "middle_divisor": entries.number("mid_block_scale_factor", 1.0),
    }
    entries.only(conv_in_kernel=3, conv_out_kernel=3, resnet_out_scale_factor=1.0, resnet_skip_time_act=False)
    entries.ignore(*OF_TEXT)
    return made


def _middle(entries: Entries, blocks: int) -> int:
    entries.word("mid_block_type", "UNetMidBlock2DCrossAttn" if blocks == 1 else "UNetMidBlock2D", ("UNetMidBlock2D",))
    return blocks


def _levels(entries: Entries, half: str, default: tuple[str, ...], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return how the levels of one half are built; the change of resolution of attention blocks is an entry of its own."""
    name = f"{half}_block_types"
    kinds = entries.sequence(name, default)
    change = entries.word(f"{half}sample_type", "conv", ("conv", "resnet"))
    for kind in kinds:
        if str(kind).removeprefix("UNetRes") not in known:  # a prefix of the first versions
            entries.config = {**entries.config, name: list(kinds)}
            entries.refuse(name, ", ".join(known))
    found = [known[kind.removeprefix("UNetRes")] for kind in kinds]
    return tuple("residual attention" if one == "conv attention" and change == "resnet" else one for one in found)


def sources(net: UNet2D, stored: Tensors) -> dict[str, tuple[str, ...]]:
    """Return for each of our tensors the stored ones, which are stacked along the first axis.

    Raises:
        CheckpointError: one is missing, has another shape or is of integers, or one is left over.
    """
    own = net.state_dict()
    found: dict[str, tuple[str, ...]] = {}
    for key, tensor in own.items():
        names = [one if one in stored else _old(one) for one in names_of(key)]
        rows = len(tensor) - 1 if key == "label.table.weight" else len(tensor) // len(names)
        for one in names:
            stored.check(one, (rows, *tensor.shape[1:]))
        found[key] = tuple(names)
    used = {name for names in found.values() for name in names}
    left = [name for name in stored if name not in used]
    if left:
        raise CheckpointError(
            f"{stored.where} has {len(left)} tensors that the network of its config.json lacks, first {left[0]}; it belongs to another "
            "config.json."
        )
    return found


def names_of(key: str) -> list[str]:
    """Return diffusers' names of one of our tensors: three for queries, keys and values."""
    for pattern, theirs in NAMES:
        key = re.sub(pattern, theirs, key)
    return [key.replace("{q,k,v}", one) for one in "qkv"] if "{" in key else [key]


def _old(name: str) -> str:
    for new, old in OLD.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


@torch.no_grad()
def fill(net: UNet2D, stored: Tensors) -> None:
    """Copy stored tensors into a network.

    Raises:
        CheckpointError: they do not fit; nothing is copied.
    """
    named, own = sources(net, stored), net.state_dict()
    for key, names in named.items():
        value: Tensor = torch.cat([stored.tensor(name) for name in names]) if len(names) > 1 else stored.tensor(names[0])
        if len(value) < len(own[key]):  # labels, whose last row stands for none
            own[key].zero_()
        own[key][: len(value)].copy_(value)
