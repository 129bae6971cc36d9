"""The multimodal diffusion transformer of Stable Diffusion 3: image and text tokens have their own weights and share one attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._checks import is_whole, shown, sizes
from pushforward._precision import dtype_of, wide
from pushforward.conditions import TextContext, register_context
from pushforward.dispatch import dispatched
from pushforward.errors import ConditionError, UserError
from pushforward.functional.embedding import timestep_embedding
from pushforward.functional.modulation import modulated_norm
from pushforward.functional.patches import patchify
from pushforward.nn.config import NetConfig, image_sides
from pushforward.nn.joint_block import EPS, JointBlock
from pushforward.nn.layers import Blocks
from pushforward.registry import export

FREQUENCIES = 256


class PreparedText(TextContext):
    """A text condition after the transformer's first maps, which do not depend on time: the output of `MMDiT.prepare`."""


register_context(PreparedText)


def _example() -> tuple:
    net = MMDiT((2, 4, 6), depth=2, heads=2, head_width=8, context_width=6, pooled_width=5, positions=4, base_size=2, dual=1, null_tokens=3)
    return net, (torch.randn(2, 2, 4, 6), torch.rand(2), TextContext(torch.randn(2, 3, 6), torch.randn(2, 5)))


@export("nn.MMDiT", example=_example)
class MMDiT(Blocks):
    """A transformer over image patches and text tokens, for images (n, channels, height, width) with sides that the patch divides.

    Each stream has its own weights, modulated (shift, scale, gate) by time and pooled text; both share one attention in every block.
    Positions are the central part of a table of cosines and sines; for a larger grid the table is interpolated bilinearly, in float32.
    It computes in the dtype of its weights and returns that of x. The table keeps its own dtype when weights are cast. The output
    starts at zero.

    Args:
        shape: (image channels, height, width) of usual inputs; only the channels are binding.
        patch: side of a patch in pixels (of latents, for Stable Diffusion).
        depth: number of blocks.
        heads: heads of the attention.
        head_width: channels of a head; a token has heads * head_width channels, a multiple of 4.
        context_width: channels of a text token.
        pooled_width: channels of the pooled text.
        positions: side of the position table, in patches.
        base_size: number of patches of the positions' unit grid: entry k of the table is coordinate k base_size / positions.
        position_axes: 2 encodes the column in half of a patch's channels and the row in the other half; 1 encodes in all of them its number
            in reading order, row * positions + column, as if the patches were words. Files hold the table itself, whichever it is.
        qk_norm: whether queries and keys are normalised (Stable Diffusion 3.5).
        dual: the blocks that have a second attention, over image tokens only: how many of the first ones (13 in Stable Diffusion 3.5
            medium), or their numbers from 0, such as (1, 3).
        mlp_ratio: width of an MLP's hidden layer in units of a token's.
        null_tokens: number of text tokens for `cond=None`, all zeros, as is the pooled text.

    Raises:
        UserError: the shape is not an image's, or the sizes do not fit.
        ConditionError: the condition is not a `TextContext` of these widths.
        ShapeError: sides of x that the patch does not divide.

    Source: Esser et al., Scaling rectified flow transformers for high-resolution image synthesis, 2403.03206, section 4; details of
    the 3.5 models follow Stability-AI's sd3.5.
    """

    @dataclass(frozen=True)
    class Config(NetConfig):
        """Settings of a multimodal diffusion transformer; the defaults are those of Stable Diffusion 3 medium with normalised queries."""

        patch: int = 2
        depth: int = 24
        heads: int = 24
        head_width: int = 64
        context_width: int = 4096
        pooled_width: int = 2048
        positions: int = 192
        base_size: int = 64
        qk_norm: bool = True
        dual: int | tuple[int, ...] = 0
        mlp_ratio: int = 4
        null_tokens: int = 333
        position_axes: Literal[1, 2] = 2
        name: ClassVar[str] = "nn.MMDiT"

        def build(
            self,
            shape: Sequence[int],
            classes: int | None = None,
            outputs: int = 1,
            *,
            cond_features: int | None = None,
            cond_image: Sequence[int] | None = None,
            numbers: int = 0,
        ) -> "MMDiT":
            for name, value in (("classes", classes), ("cond_features", cond_features), ("cond_image", cond_image)):
                if value is not None:
                    raise ConditionError(
                        f"{name} is {value}, but MMDiT reads text (a TextContext); use DiT for labels, vectors and images."
                    )
            if outputs != 1:
                raise UserError(
                    f"outputs is {outputs}, but MMDiT returns as many channels as it reads; use UNet or DiT to learn a variance."
                )
            if numbers:
                raise UserError(f"numbers is {numbers}, but MMDiT reads only t; use UNet or DiT for flow maps.")
            return MMDiT(shape, **vars(self))

    positions: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        *,
        patch: int = 2,
        depth: int = 24,
        heads: int = 24,
        head_width: int = 64,
        context_width: int = 4096,
        pooled_width: int = 2048,
        positions: int = 192,
        base_size: int = 64,
        qk_norm: bool = True,
        dual: int | Sequence[int] = 0,
        mlp_ratio: int = 4,
        null_tokens: int = 333,
        position_axes: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        self.shape = image_sides("MMDiT", shape)
        channels = self.shape[0]
        sizes(patch=patch, depth=depth, heads=heads, head_width=head_width, context_width=context_width, pooled_width=pooled_width)
        sizes(positions=positions, base_size=base_size, mlp_ratio=mlp_ratio, null_tokens=null_tokens)
        if position_axes not in (1, 2):
            raise UserError(f"position_axes is {shown(position_axes)}, but it is 2 (column and row) or 1 (patches in reading order).")
        second = _blocks_of(dual, depth)
        width = heads * head_width
        if width % 4:
            raise UserError(f"heads and head_width are {heads} and {head_width}, but positions need their product to be a multiple of 4.")
        self.patch, self.width, self.context_width, self.pooled_width = patch, width, context_width, pooled_width
        self.channels, self.null_tokens = channels, null_tokens
        self.first = nn.Linear(channels * patch * patch, width)
        self.time, self.pooled = (
            nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width)) for inputs in (FREQUENCIES, pooled_width)
        )
        self.context = nn.Linear(context_width, width)
        self.blocks = nn.ModuleList(
            JointBlock(width, heads, mlp_ratio, qk_norm, second=k in second, last=k == depth - 1) for k in range(depth)
        )
        self.modulation, self.last = nn.Linear(width, 2 * width), nn.Linear(width, channels * patch * patch)
        for layer in (self.modulation, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        table = position_table(positions, base_size, width, self.last.weight.dtype, position_axes)
        self.register_buffer("positions", table)

    def forward(self, x: Tensor, t: Tensor, cond: TextContext | None = None, skip: Sequence[int] = ()) -> Tensor:
        """Return the prediction (n, channels, height, width) at x and t (n,).

        Args:
            x: images (n, channels, height, width).
            t: times in [0, 1], (n,).
            cond: texts, or the output of `prepare` for them; None is zeros.
            skip: blocks to skip (skip-layer guidance).
        """
        dtype = dtype_of(self)
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        image = self.first(patchify(x.to(dtype), self.patch)) + self.placed(rows, columns)
        text = self.prepare(cond, x.shape[0])
        embedding = F.silu(self.time(timestep_embedding(t, FREQUENCIES).to(dtype)) + text.pooled)
        image = self.through_blocks(image, text.context, embedding, skip)
        shift, scale = self.modulation(embedding).chunk(2, dim=1)
        out = self.last(modulated_norm(image, shift, scale, EPS))
        out = out.view(x.shape[0], rows, columns, self.patch, self.patch, self.channels).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(x.shape).to(x.dtype)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        """Move or cast all tensors, but the positions keep their dtype: no weights, they lose digits in 16 bits and gain none in 32."""
        positions = self.positions
        super()._apply(fn, recurse)
        if self.positions.dtype != positions.dtype:
            self.positions = positions.to(self.positions.device)
        return self

    @dispatched
    def through_blocks(self, image: Tensor, text: Tensor, embedding: Tensor, skip: Sequence[int] = ()) -> Tensor:
        """Return the image tokens after all blocks except those to skip."""
        for block, on_device in self.in_turn([block for k, block in enumerate(self.blocks) if k not in skip]):
            with on_device:
                image, text = self.run(block, image, text, embedding)
        return image

    def prepare(self, cond: TextContext | None, n: int) -> PreparedText:
        """Return the condition after the maps that do not depend on time; pass it to `forward` instead, so that they are computed once."""
        if isinstance(cond, PreparedText):
            return cond
        dtype = dtype_of(self)
        if cond is None:
            sizes, place = (self.context_width, self.pooled_width), self.positions.device
            context, pooled = (torch.zeros(1, size, dtype=dtype, device=place) for size in sizes)
            return PreparedText(self.context(context).expand(n, self.null_tokens, -1), self.pooled(pooled).expand(n, -1))
        self._check(cond)
        return PreparedText(self.context(cond.context.to(dtype)), self.pooled(cond.pooled.to(dtype)))

    def _check(self, cond: Any) -> None:
        if not isinstance(cond, TextContext):
            what = f"{cond.dtype} of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else type(cond).__name__
            raise ConditionError(f"cond is {what}, but MMDiT reads text: give a TextContext(context, pooled).")
        widths = cond.context.shape[2], cond.pooled.shape[1]
        if widths != (self.context_width, self.pooled_width):
            raise ConditionError(
                f"cond has {widths[0]} channels in its context and {widths[1]} in its pooled vector, but this network needs "
                f"{self.context_width} and {self.pooled_width}; encode the prompts for this model."
            )

    def placed(self, rows: int, columns: int) -> Tensor:
        """Return the positions (rows columns, width) of a grid of patches, from the middle of the table."""
        side = int(len(self.positions) ** 0.5)
        table = self.positions.view(side, side, self.width)
        if rows > side or columns > side:
            planes = table.movedim(2, 0)[None].to(wide(table))
            size = max(rows, side), max(columns, side)
            table = F.interpolate(planes, size, mode="bilinear", align_corners=True)[0].movedim(0, 2)
        top, left = (table.shape[0] - rows) // 2, (table.shape[1] - columns) // 2
        window = table[top : top + rows, left : left + columns]
        return window.reshape(rows * columns, self.width).to(dtype_of(self))


def _blocks_of(dual: Any, depth: int) -> frozenset[int]:
    """Return the numbers of the blocks with a second attention, of `depth` blocks."""
    if is_whole(dual):
        if not 0 <= dual <= depth:
            raise UserError(f"dual is {dual}, but it counts blocks, of which there are {depth}.")
        return frozenset(range(dual))
    listed = isinstance(dual, Sequence) and not isinstance(dual, str)
    if not listed or not all(is_whole(k) and 0 <= k < depth for k in dual) or len(set(dual)) != len(dual):
        given = tuple(dual) if listed else shown(dual)
        raise UserError(f"dual is {given}, but it is a number of blocks, or different ones of 0 to {depth - 1}, such as (1, 3).")
    return frozenset(dual)


def position_table(side: int, base_size: int, width: int, dtype: torch.dtype, axes: int = 2) -> Tensor:
    """Return the positions (side², width): for each patch [sin, cos] of the column's coordinate, then of the row's.

        coordinate = k base_size / side,    omega_j = 10000^(-j / (width / (2 axes)))

    With one axis k is the number of the patch in reading order, and [sin, cos] of its coordinate fill all channels.
    """
    frequencies = width // (2 * axes)
    omega = 10000.0 ** (-torch.arange(frequencies, dtype=torch.float64) / frequencies)
    phase = (torch.arange(side ** (3 - axes), dtype=torch.float64) * (base_size / side))[:, None] * omega
    waves = torch.cat((phase.sin(), phase.cos()), dim=1).to(dtype)  # sines of float64, a table in dtype
    if axes == 1:
        return waves
    columns, rows = waves[None, :].expand(side, side, -1), waves[:, None].expand(side, side, -1)
    return torch.cat((columns, rows), dim=2).flatten(0, 1)
