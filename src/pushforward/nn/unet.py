"""The U-Net of diffusion models: residual blocks down and up in resolution, skip connections, and attention at low resolutions."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._checks import share_of, sizes, sizes_of, whole
from pushforward.conditions import Conditioning
from pushforward.errors import UserError
from pushforward.nn.config import CondBy, NetConfig, grid_sides
from pushforward.nn.context import ContextAttention
from pushforward.nn.embedding import TimeAndCondition
from pushforward.nn.image_condition import image_readers
from pushforward.nn.layers import Blocks, SelfAttention
from pushforward.registry import export

CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _normalised(channels: int) -> nn.GroupNorm:
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if (channels % g == 0 and channels // g >= 4) or g == 1)
    return nn.GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice, modulated by the time in between, with a (projected) residual connection."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float, convolution: Any = nn.Conv2d) -> None:
        super().__init__()
        self.norm1, self.conv1 = _normalised(inputs), convolution(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.conv2 = _normalised(outputs), convolution(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(share_of("dropout", dropout))
        self.skip = convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # each block starts as its residual connection
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[(..., *(None,) * (x.ndim - 2))].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, and attention to the tokens of a condition if there are some, each with a residual connection."""

    def __init__(self, channels: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.norm, self.attention = _normalised(channels), SelfAttention(channels, heads)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)
        self.context = None if context is None else ContextAttention(channels, heads, context)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        x = x + self.attention(tokens).transpose(1, 2).reshape(x.shape)
        if self.context is None:
            return x
        return self.context(x.flatten(2).transpose(1, 2), context).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """The blocks of one resolution."""

    def __init__(self, blocks: Sequence[nn.Module], resize: nn.Module | None) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(blocks)
        self.attends = [isinstance(block, AttentionBlock) for block in blocks]  # as built: a block may be wrapped later
        self.resize = resize


@export("nn.UNet", example=lambda: (UNet((1, 8, 8), channels=8, classes=3), (torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 2]))))
class UNet(Blocks):
    """A U-Net over images (n, channels, height, width), conditioned on time and on labels, vectors or images.

    Series (n, channels, length) and volumes (n, channels, depth, height, width) are images of other dimensions. All sides must be
    divisible by 2^(levels - 1). The last convolution starts at zero.

    Args:
        shape: (image channels, *sides).
        channels: width at full resolution.
        multipliers: width of each level in units of `channels`; one number per level.
        depth: residual blocks per level of the downsampling half (one more in the upsampling half).
        attention: a level has attention if the largest side of its images, in pixels, is at most this.
        heads: number of attention heads.
        dropout: fraction of activations dropped in training.
        cond_by: how condition images are read: "concat" concatenates them to x, "attention" reads images of any size by cross-attention
            wherever there is attention.
        cond_patch: side of the patches of condition images that are read by attention.
        classes: number of classes, or None.
        outputs: output channels per image channel.
        cond_features: length of condition vectors, which like labels modulate all blocks, or None.
        cond_image: shape (channels, *sides) of condition images, or None: masks, images to be completed, low-resolution images;
            concatenated to x, their sides are those of x, a multiple or a fraction.
        time_scale: factor of t in its embedding; None is 1000, and 30 for a network with `numbers`, as the derivative by t grows with it.
        numbers: how many further numbers per sample it reads, called as net(x, t, cond, r=r, guidance=guidance): 1 is the length t - r of
            an interval, 4 also a guidance scale and its interval (n, 3); 0 is none.

    Raises:
        UserError: the shape is not that of series, images or volumes, or its sides cannot be halved that often.
        ConditionError: several kinds of condition, or condition images whose sides do not fit.

    Source: Ho, Jain and Abbeel, 2006.11239, appendix B; Nichol and Dhariwal, 2102.09672 (scale and shift by the time).
    """

    @dataclass(frozen=True)
    class Config(NetConfig):
        """Settings of a U-Net: widths, depth, levels with attention."""

        channels: int = 64
        multipliers: tuple[int, ...] = (1, 2)
        depth: int = 2
        attention: int = 8
        heads: int = 4
        dropout: float = 0.0
        cond_by: CondBy = "concat"
        cond_patch: int = 2
        time_scale: float | None = None
        name: ClassVar[str] = "nn.UNet"

        def build(
            self,
            shape: Sequence[int],
            classes: int | None = None,
            outputs: int = 1,
            *,
            cond_features: int | None = None,
            cond_image: Sequence[int] | None = None,
            numbers: int = 0,
        ) -> "UNet":
            own = {one.name: getattr(self, one.name) for one in fields(self)}
            return UNet(
                shape, classes=classes, outputs=outputs, cond_features=cond_features, cond_image=cond_image, numbers=numbers, **own
            )  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int],
        *,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2),
        depth: int = 2,
        attention: int = 8,
        heads: int = 4,
        dropout: float = 0.0,
        cond_by: CondBy = "concat",
        cond_patch: int = 2,
        classes: int | None = None,
        outputs: int = 1,
        cond_features: int | None = None,
        cond_image: Sequence[int] | None = None,
        time_scale: float | None = None,
        numbers: int = 0,
    ) -> None:
        super().__init__()
        kind = Conditioning(classes, cond_features, cond_image)
        image_channels, sides = grid_sides("UNet", shape)
        sizes(channels=channels, depth=depth, heads=heads, cond_patch=cond_patch)
        whole("attention", attention, 0)
        multipliers = sizes_of("multipliers", multipliers)
        convolution, halvings = CONVOLUTIONS[len(sides) - 1], len(multipliers) - 1
        if any(side % 2**halvings for side in sides):
            raise UserError(
                f"shape is {tuple(shape)}, but {len(multipliers)} levels halve the sides {halvings} times; "
                f"use sides divisible by {2**halvings}, or fewer multipliers."
            )
        features = 4 * channels
        self.embedding = TimeAndCondition(features, classes, cond_features, numbers=numbers, time_scale=time_scale)
        self.image, self.context = image_readers(kind, sides, cond_by, cond_patch, features)
        context = None if self.context is None else features
        self.first = convolution(image_channels + (self.image.added if self.image is not None else 0), channels, 3, padding=1)
        skips, here = [channels], channels
        self.down: Any = nn.ModuleList()
        self.up: Any = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            attend = max(sides) >> level <= attention
            blocks: list[nn.Module] = []
            for _ in range(depth):
                blocks.append(ResidualBlock(here, multiplier * channels, features, dropout, convolution))
                here = multiplier * channels
                blocks += [AttentionBlock(here, heads, context)] if attend else []
                skips.append(here)
            resize = convolution(here, here, 3, stride=2, padding=1) if level < halvings else None
            skips += [here] if resize is not None else []
            self.down.append(Level(blocks, resize))
        self.middle: Any = nn.ModuleList(
            [
                ResidualBlock(here, here, features, dropout, convolution),
                AttentionBlock(here, heads, context),
                ResidualBlock(here, here, features, dropout, convolution),
            ]
        )
        for level, multiplier in reversed(list(enumerate(multipliers))):
            attend = max(sides) >> level <= attention
            blocks = []
            for _ in range(depth + 1):
                blocks.append(ResidualBlock(here + skips.pop(), multiplier * channels, features, dropout, convolution))
                here = multiplier * channels
                blocks += [AttentionBlock(here, heads, context)] if attend else []
            self.up.append(Level(blocks, convolution(here, here, 3, padding=1) if level else None))
        self.norm, self.last = _normalised(here), convolution(here, outputs * image_channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def units(self) -> list[nn.Module]:
        return [block for part in (*(one.blocks for one in self.down), self.middle, *(one.blocks for one in self.up)) for block in part]

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, r: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        context = None
        if self.image is not None:
            x, cond = self.image(x, cond), None
        elif self.context is not None:
            context, cond = self.context(cond, x.shape[0]), None
        embedding = F.silu(self.embedding(t, cond, r, guidance))
        h = self.first(x)
        skips = [h]
        for level in self.down:
            for block, attends in zip(level.blocks, level.attends, strict=True):
                h = self.run(block, h, embedding, context)
                if attends:
                    skips[-1] = h  # the skip connection carries the attention's output
                else:
                    skips.append(h)
            if level.resize is not None:
                h = level.resize(h)
                skips.append(h)
        for block in self.middle:
            h = self.run(block, h, embedding, context)
        for level in self.up:
            for block, attends in zip(level.blocks, level.attends, strict=True):
                if not attends:
                    h = torch.cat((h, skips.pop()), dim=1)
                h = self.run(block, h, embedding, context)
            if level.resize is not None:
                h = level.resize(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.last(F.silu(self.norm(h)))
