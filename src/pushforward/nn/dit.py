"""The diffusion transformer: patches as tokens, modulated by time and condition."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._checks import sizes
from pushforward.conditions import Conditioning
from pushforward.errors import UserError
from pushforward.functional.embedding import grid_positions
from pushforward.functional.modulation import modulated_norm
from pushforward.functional.patches import by_sides, patchify, unpatchify
from pushforward.nn.config import CondBy, NetConfig, grid_sides
from pushforward.nn.constant import Constant
from pushforward.nn.context import ContextAttention
from pushforward.nn.embedding import TimeAndCondition
from pushforward.nn.image_condition import image_readers
from pushforward.nn.layers import Blocks, SelfAttention
from pushforward.registry import export


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by time and condition (adaLN-Zero: the gates start at zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, context: int | None = None) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = SelfAttention(width, heads)
        self.context = None if context is None else ContextAttention(width, heads, context)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * width, width))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None = None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding).chunk(6, dim=1)
        x = torch.addcmul(x, gate1[:, None], self.attention(modulated_norm(x, shift1, scale1)))
        if self.context is not None:
            x = self.context(x, context)
        return torch.addcmul(x, gate2[:, None], self.mlp(modulated_norm(x, shift2, scale2)))


@export(
    "nn.DiT",
    example=lambda: (DiT((1, 8, 8), width=16, depth=2, heads=2, classes=3), (torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 2]))),
)
class DiT(Blocks):
    """A transformer over the patches of images (n, channels, height, width), conditioned on time and on labels, vectors or images.

    Series (n, channels, length) and volumes (n, channels, depth, height, width) are images of other dimensions. Position embeddings are
    fixed cosines and sines, an equal share of the channels for each side. The output starts at zero.

    Args:
        shape: (image channels, *sides).
        patch: side of a patch in pixels; must divide all sides.
        width: channels of a token, divisible by 2 for each side and by `heads`.
        depth: number of blocks.
        heads: number of attention heads.
        mlp_ratio: width of a block's hidden layer in units of `width`.
        cond_by: how condition images are read: "concat" concatenates their patches to those of x, "attention" reads images of any size by
            cross-attention in every block.
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
        UserError: the shape is not that of series, images or volumes, or the sizes do not divide.
        ConditionError: several kinds of condition, or condition images whose sides do not fit.

    Source: Peebles and Xie, Scalable diffusion models with transformers, 2212.09748.
    """

    @dataclass(frozen=True)
    class Config(NetConfig):
        """Settings of a diffusion transformer: patch, width, depth, heads."""

        patch: int = 2
        width: int = 128
        depth: int = 6
        heads: int = 4
        mlp_ratio: int = 4
        cond_by: CondBy = "concat"
        cond_patch: int = 2
        time_scale: float | None = None
        name: ClassVar[str] = "nn.DiT"

        def build(
            self,
            shape: Sequence[int],
            classes: int | None = None,
            outputs: int = 1,
            *,
            cond_features: int | None = None,
            cond_image: Sequence[int] | None = None,
            numbers: int = 0,
        ) -> "DiT":
            own = {one.name: getattr(self, one.name) for one in fields(self)}
            return DiT(
                shape, classes=classes, outputs=outputs, cond_features=cond_features, cond_image=cond_image, numbers=numbers, **own
            )  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int],
        *,
        patch: int = 2,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: int = 4,
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
        channels, sides = grid_sides("DiT", shape)
        sizes(patch=patch, width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, cond_patch=cond_patch)
        if any(side % patch for side in sides):
            raise UserError(f"patch is {patch}, which does not divide an image of {by_sides(sides)}; use a divisor of all sides.")
        if width % (2 * len(sides)):
            raise UserError(f"width is {width}, but the positions along {len(sides)} sides need a multiple of {2 * len(sides)}.")
        self.patch = patch
        self.image, self.context = image_readers(kind, sides, cond_by, cond_patch, width)
        self.first = nn.Linear((channels + (self.image.added if self.image is not None else 0)) * patch ** len(sides), width)
        self.embedding = TimeAndCondition(width, classes, cond_features, numbers=numbers, time_scale=time_scale)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio, width if self.context is not None else None) for _ in range(depth))
        self.modulation, self.last = nn.Linear(width, 2 * width), nn.Linear(width, outputs * channels * patch ** len(sides))
        for layer in (self.modulation, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.positions = Constant(partial(grid_positions, [side // patch for side in sides], width))
        self.positions.like(self.last.weight)  # cached before a compiler traces the forward pass

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, r: Tensor | None = None, guidance: Tensor | None = None) -> Tensor:
        context = None
        if self.image is not None:
            x, cond = self.image(x, cond), None
        elif self.context is not None:
            context, cond = self.context(cond, x.shape[0]), None
        embedding = F.silu(self.embedding(t, cond, r, guidance))
        tokens = self.first(patchify(x, self.patch))
        tokens = tokens + self.positions.like(next(self.parameters()))
        for block in self.blocks:
            tokens = self.run(block, tokens, embedding, context)
        shift, scale = self.modulation(embedding).chunk(2, dim=1)
        return unpatchify(self.last(modulated_norm(tokens, shift, scale)), self.patch, *x.shape[2:])
