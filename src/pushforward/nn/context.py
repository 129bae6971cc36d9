"""Condition images as a sequence of tokens, and cross-attention to them."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from pushforward.conditions import Conditioning, known_rows
from pushforward.errors import ConditionError
from pushforward.functional.attention import attention
from pushforward.functional.embedding import grid_positions
from pushforward.functional.patches import space_to_channels
from pushforward.nn.constant import Constant
from pushforward.nn.embedding import statistics


class ImageTokens(nn.Module):
    """Condition images of any size as tokens (n, tokens, width): patches, standardised and mapped linearly, plus their positions.

    The tokens of no condition, and of a row dropped in training (`conditions.dropped`), are all one learned vector.

    Args:
        cond_image: shape (channels, *sides) of the images.
        patch: side of a patch in pixels; must divide all sides.
        width: channels of a token.

    Raises:
        ConditionError: the patch does not divide the sides; the condition has another shape.
        DtypeError: its dtype is not that of the parameters.
    """

    conditional = True
    mean: Tensor
    std: Tensor

    def __init__(self, cond_image: Sequence[int], patch: int, width: int) -> None:
        super().__init__()
        self.kind, self.patch = Conditioning(cond_image=cond_image), patch
        channels, *sides = cond_image
        if patch < 1 or any(side % patch for side in sides):
            raise ConditionError(
                f"cond_patch is {patch}, which does not divide the sides of cond_image {tuple(cond_image)}; use a divisor."
            )
        self.first = nn.Linear(channels * patch ** len(sides), width)
        self.null = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(channels, *(1 for _ in sides)))
        self.register_buffer("std", torch.ones(channels, *(1 for _ in sides)))
        self.positions = Constant(partial(grid_positions, [side // patch for side in sides], width))
        self.positions.like(self.null)  # cached before a compiler traces the forward pass

    def forward(self, cond: Tensor | None, n: int) -> Tensor:
        if cond is None:
            return self.null.expand(n, 1, -1)  # attention to many equal tokens is attention to one
        self.kind.check(cond, n, self.null.dtype, "network")
        known = known_rows(cond)
        image = space_to_channels(torch.where(known, (cond - self.mean) / self.std, 0), self.patch)
        tokens = self.first(image.flatten(2).transpose(1, 2)) + self.positions.like(self.null)
        return torch.where(known.view(n, 1, 1), tokens, self.null)

    @torch.no_grad()
    def fit_condition(self, cond: Tensor) -> None:
        """Fit mean and deviation of each channel to condition images (n, channels, *sides)."""
        for held, fitted in zip((self.mean, self.std), statistics(cond), strict=True):
            held.copy_(fitted)


class ContextAttention(nn.Module):
    """Multi-head attention of tokens (n, tokens, width) to those of a condition, with a residual connection; it starts as the identity."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(context, 2 * width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        k, v = self.kv(context).chunk(2, dim=2)
        q, k, v = (one.unflatten(2, (self.heads, -1)).transpose(1, 2) for one in (self.q(self.norm(x)), k, v))
        return x + self.out(attention(q, k, v).transpose(1, 2).flatten(2))
