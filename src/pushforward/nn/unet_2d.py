"""The U-Net of the published DDPM checkpoints, with every choice that diffusers' `UNet2DModel` leaves open."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._checks import sizes, sizes_of, whole
from pushforward._precision import dtype_of
from pushforward.errors import ConditionError, UserError
from pushforward.nn.config import NetConfig, image_sides
from pushforward.nn.embedding import LabelEmbedding, Numbers, TimestepEmbedding, no_interval
from pushforward.nn.layers import Blocks
from pushforward.nn.unet_2d_blocks import Double, Halve, PixelAttention, Stage, StepEmbedding, TimedResidual
from pushforward.registry import export

Level = Literal["conv", "conv attention", "residual", "residual attention"]
LEVELS: tuple[Level, ...] = ("conv", "conv attention", "residual", "residual attention")


def _example() -> tuple:
    net = UNet2D((1, 8, 8), channels=(8, 16), down=("conv", "conv attention"), up=("conv attention", "conv"), depth=1, groups=4, classes=3)
    return net, (torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 2]))


@export("nn.UNet2D", example=_example)
class UNet2D(Blocks):
    """The U-Net of DDPM and its descendants over images (n, channels, height, width), as diffusers' `UNet2DModel` describes it.

    `pushforward.load` builds it for checkpoints of diffusers; for models of your own `UNet` has fewer settings. Each side of an image must
    be divisible by 2^(levels - 1). Labels have one more row than classes, for `cond=None`; a checkpoint has none, and it is zero there.

    Args:
        shape: (image channels, height, width).
        channels: channels of each level, from full resolution down.
        down: how each level of the first half is built: "conv" changes resolution by a convolution, "residual" within a residual block,
            by means of pixels; "conv attention" and "residual attention" have an attention after each residual block.
        up: that of the second half, from the lowest resolution up.
        depth: residual blocks per level of the first half, one more in the second.
        head: channels of a head of attention; None is one head.
        groups: groups of the norms.
        middle: number of residual blocks between the halves: 2, 1 or 0.
        middle_attention: whether there is attention after the first of them.
        middle_groups: groups of that attention's norm; None is `groups`, or no norm if the time modulates.
        middle_divisor: by which sums in the middle are divided.
        modulated: whether the time scales and shifts ("scale_shift") instead of being added.
        padding: border of the convolutions that halve: 1 on all sides, 0 on the right and below only.
        eps: added to the norms' variances.
        dropout: fraction of activations dropped in training.
        centred: whether the network maps x to 2 x - 1 first.
        features: size of the time's embedding; None is four times the first channels.
        sine_first: whether sines come before cosines in it.
        frequency_shift: the frequencies are 10000^(-j / (half - frequency_shift)).
        steps: number T of the steps that the embedding counts: k = T t - 1.
        classes: number of classes, or None.
        outputs: output channels per image channel.
        numbers: how many further numbers per sample it reads (see `UNet`).

    Raises:
        UserError: the shape is no image's or cannot be halved that often; settings that contradict each other.

    Source: Ho, Jain and Abbeel, 2006.11239, appendix B; Dhariwal and Nichol, 2105.05233, section 3; what varies between checkpoints is
    that of diffusers 0.42.
    """

    @dataclass(frozen=True)
    class Config(NetConfig):
        """Settings of the U-Net: levels, attention, norms, and how it reads the time."""

        channels: tuple[int, ...] = (128, 256, 256, 256)
        down: tuple[Level, ...] = ("conv", "conv attention", "conv", "conv")
        up: tuple[Level, ...] = ("conv", "conv", "conv attention", "conv")
        depth: int = 2
        head: int | None = None
        groups: int = 32
        middle: int = 2
        middle_attention: bool = True
        middle_groups: int | None = None
        middle_divisor: float = 1.0
        modulated: bool = False
        padding: int = 0
        eps: float = 1e-6
        dropout: float = 0.0
        centred: bool = False
        features: int | None = None
        sine_first: bool = True
        frequency_shift: float = 1.0
        steps: int = 1000
        name: ClassVar[str] = "nn.UNet2D"

        def build(
            self,
            shape: Sequence[int],
            classes: int | None = None,
            outputs: int = 1,
            *,
            cond_features: int | None = None,
            cond_image: Sequence[int] | None = None,
            numbers: int = 0,
        ) -> "UNet2D":
            if cond_features is not None or cond_image is not None:
                raise ConditionError("UNet2D reads no vectors or images as conditions; use UNet or DiT.")
            own = {one.name: getattr(self, one.name) for one in fields(self)}
            return UNet2D(shape, classes=classes, outputs=outputs, numbers=numbers, **own)

    def __init__(
        self,
        shape: Sequence[int],
        *,
        channels: Sequence[int] = (128, 256, 256, 256),
        down: Sequence[Level] = ("conv", "conv attention", "conv", "conv"),
        up: Sequence[Level] = ("conv", "conv", "conv attention", "conv"),
        depth: int = 2,
        head: int | None = None,
        groups: int = 32,
        middle: int = 2,
        middle_attention: bool = True,
        middle_groups: int | None = None,
        middle_divisor: float = 1.0,
        modulated: bool = False,
        padding: int = 0,
        eps: float = 1e-6,
        dropout: float = 0.0,
        centred: bool = False,
        features: int | None = None,
        sine_first: bool = True,
        frequency_shift: float = 1.0,
        steps: int = 1000,
        classes: int | None = None,
        outputs: int = 1,
        numbers: int = 0,
    ) -> None:
        super().__init__()
        images, *sides = image_sides("UNet2D", shape)
        channels = sizes_of("channels", channels)
        sizes(**{name: one for name, one in (("features", features), ("middle_groups", middle_groups)) if one is not None})
        _check_levels(sides, channels, down, up, groups)
        _check_heads(channels, down, up, head, middle and middle_attention)
        for name, value, least in (("depth", depth, 1), ("steps", steps, 1), ("padding", padding, 0), ("middle", middle, 0)):
            whole(name, value, least)
        features = 4 * channels[0] if features is None else features
        embedding = StepEmbedding(channels[0], steps, sine_first, frequency_shift)
        self.embedding = embedding
        self.time = nn.Sequential(nn.Linear(channels[0], features), nn.SiLU(), nn.Linear(features, features))
        self.label = LabelEmbedding(classes, features)
        self.numbers = Numbers(TimestepEmbedding(128, 30.0), features, numbers, features) if numbers else None
        self.centred = centred

        def residual(inputs: int, width: int, change: Any = None, divisor: float = 1.0) -> TimedResidual:
            return TimedResidual(inputs, width, features, groups, eps, modulated, dropout, divisor, change)

        def attention(width: int, norm: int | None = groups, divisor: float = 1.0) -> PixelAttention:
            return PixelAttention(width, 1 if head is None else width // head, norm, eps, divisor)

        self.first = nn.Conv2d(images, channels[0], 3, padding=1)
        skips, here = [channels[0]], channels[0]
        self.down: Any = nn.ModuleList()
        for level, (kind, width) in enumerate(zip(down, channels, strict=True)):
            last = level == len(channels) - 1
            blocks = [residual(here if k == 0 else width, width) for k in range(depth)]
            attentions = [attention(width) for _ in blocks] if kind.endswith("attention") else []
            change: Any = None if last else residual(width, width, "down") if kind.startswith("residual") else Halve(width, padding)
            self.down.append(Stage(blocks, attentions, change))
            skips += [width] * (depth + (not last))
            here = width
        self.middle: Any = None
        if middle:
            norm = middle_groups if middle_groups is not None else None if modulated else groups
            attentions = [attention(here, norm, middle_divisor)] if middle_attention else []
            self.middle = Stage([residual(here, here, None, middle_divisor) for _ in range(middle)], attentions, None)
        self.up: Any = nn.ModuleList()
        for level, (kind, width) in enumerate(zip(up, reversed(channels), strict=True)):
            blocks = [residual((here if k == 0 else width) + skips.pop(), width) for k in range(depth + 1)]
            attentions = [attention(width) for _ in blocks] if kind.endswith("attention") else []
            last = level == len(channels) - 1
            change = None if last else residual(width, width, "up") if kind.startswith("residual") else Double(width)
            self.up.append(Stage(blocks, attentions, change))
            here = width
        self.norm, self.last = nn.GroupNorm(groups, here, eps), nn.Conv2d(here, outputs * images, 3, padding=1)

    def units(self) -> list[nn.Module]:
        stages = [*self.down, *([] if self.middle is None else [self.middle]), *self.up]
        return [block for stage in stages for block in (*stage.blocks, *stage.attentions)]

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, r: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        embedding = F.silu(self._embedded(t, cond, r, guidance))
        h = self.first(2 * x - 1 if self.centred else x)
        skips = [h]
        for stage in self.down:
            for k, block in enumerate(stage.blocks):
                h = self.run(block, h, embedding)
                if stage.attentions:
                    h = self.run(stage.attentions[k], h)
                skips.append(h)
            if stage.change is not None:
                h = stage.changed(h, embedding)
                skips.append(h)
        if self.middle is not None:
            for k, block in enumerate(self.middle.blocks):
                h = self.run(block, h, embedding)
                for attention in self.middle.attentions[k:]:
                    h = self.run(attention, h)
        for stage in self.up:
            for k, block in enumerate(stage.blocks):
                h = self.run(block, torch.cat((h, skips.pop()), dim=1), embedding)
                if stage.attentions:
                    h = self.run(stage.attentions[k], h)
            if stage.change is not None:
                h = stage.changed(h, embedding)
        return self.last(F.silu(self.norm(h)))

    def _embedded(self, t: Tensor, cond: Tensor | None, r: Tensor | None, guidance: Tensor | None) -> Tensor:
        vector: Tensor = self.time(self.embedding(t).to(dtype_of(self.time)))
        if self.numbers is not None:
            vector = vector + self.numbers(t, r, guidance)
        elif r is not None or guidance is not None:
            raise no_interval()
        label = self.label(cond, t.shape[0])
        return vector if label is None else vector + label


def _check_levels(sides: Sequence[int], channels: Sequence[int], down: Sequence[str], up: Sequence[str], groups: int) -> None:
    halvings = len(channels) - 1
    if any(side % 2**halvings for side in sides):
        raise UserError(
            f"shape has the sides {tuple(sides)}, but {len(channels)} levels halve them {halvings} times; use sides divisible by "
            f"{2**halvings}."
        )
    for name, kinds in (("down", down), ("up", up)):
        if len(kinds) != len(channels) or not set(kinds) <= set(LEVELS):
            raise UserError(f"{name} is {tuple(kinds)}, but it has one of {', '.join(LEVELS)} for each of the {len(channels)} levels.")
    whole("groups", groups, 1)
    for width in channels:
        if width % groups:
            raise UserError(f"channels is {tuple(channels)}, but each must be a multiple of the {groups} groups of a norm.")


def _check_heads(channels: Sequence[int], down: Sequence[str], up: Sequence[str], head: int | None, middle: Any) -> None:
    levels = [*zip(channels, down, strict=True), *zip(reversed(channels), up, strict=True)]
    if middle:
        levels.append((channels[-1], "attention"))
    for width, kind in levels:
        if head is not None and kind.endswith("attention") and width % whole("head", head, 1):
            raise UserError(f"head is {head}, but it must divide the channels of each attention, among them {width}.")
