"""The parts of `nn.UNet2D`: the time, residual blocks that may halve or double the sides, attention over pixels, changes of resolution."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward._checks import share_of
from pushforward._precision import wide
from pushforward.nn.layers import SelfAttention

Change = Literal["down", "up"]
PERIOD = 10000.0  # longest period of the time's embedding, in steps


def halved(x: Tensor) -> Tensor:
    """Return images (n, channels, height, width) at half the sides: means of 2x2 pixels."""
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    """Return images at twice the sides: each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


CHANGES = {"down": halved, "up": doubled}


class StepEmbedding(nn.Module):
    """Cosines and sines of the step k = steps t - 1, which is an integer at the knots of a discrete path.

    In float32 t carries an error of steps 2^-24, of which k is freed near integers. The frequencies are those of float32, with which
    such networks were trained.
    """

    def __init__(self, features: int, steps: int, sine_first: bool, shift: float) -> None:
        super().__init__()
        self.features, self.steps, self.sine_first, self.shift = features, steps, sine_first, shift

    def forward(self, t: Tensor) -> Tensor:
        t = t.to(wide(t))
        k = self.steps * t - 1
        off = (k.round() - k).detach()
        k = k + torch.where(off.abs() < 4 * self.steps * torch.finfo(t.dtype).eps, off, 0.0)
        half = self.features // 2
        logarithms = -math.log(PERIOD) * torch.arange(half, dtype=torch.float32) / (half - self.shift)
        phase = k[:, None] * torch.exp(logarithms).to(t)
        parts = (phase.sin(), phase.cos()) if self.sine_first else (phase.cos(), phase.sin())
        return F.pad(torch.cat(parts, dim=1), (0, self.features % 2))


class TimedResidual(nn.Module):
    """Norm, SiLU and convolution, twice; the time is added in between, or scales and shifts what the second norm returns.

        (skip(x) + conv2(dropout(silu(h)))) / divisor,    h = norm2(conv1(silu(norm1(x))) + time)  or  (1 + scale) norm2(...) + shift

    Args:
        inputs: input channels.
        outputs: output channels.
        features: size of the embedding of the time.
        groups: groups of both norms.
        eps: added to the norms' variances.
        modulated: whether the time scales and shifts.
        dropout: fraction of activations dropped in training.
        divisor: by which the sum is divided.
        change: whether the block halves ("down") or doubles ("up") the sides of its images, or None.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        features: int,
        groups: int,
        eps: float,
        modulated: bool,
        dropout: float,
        divisor: float = 1.0,
        change: Change | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs, eps), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(features, 2 * outputs if modulated else outputs)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs, eps), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(share_of("dropout", dropout))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.modulated, self.divisor, self.change = modulated, divisor, change

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return images (n, outputs, ...) for x (n, inputs, height, width) and the time's embedding (n, features) after SiLU."""
        h = F.silu(self.norm1(x))
        if self.change is not None:
            x, h = (CHANGES[self.change](one) for one in (x, h))
        h, time = self.conv1(h), self.time(embedding)[:, :, None, None]
        if self.modulated:
            scale, shift = time.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + time)
        return (self.skip(x) + self.conv2(self.dropout(F.silu(h)))) / self.divisor


class PixelAttention(nn.Module):
    """Self-attention over the pixels of x (n, channels, height, width), added to x: (x + attention(norm(x))) / divisor.

    Args:
        channels: channels of x.
        heads: number of heads.
        groups: groups of the norm, or None for no norm.
        eps: added to the norm's variances.
        divisor: by which the sum is divided.
    """

    def __init__(self, channels: int, heads: int, groups: int | None, eps: float, divisor: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.Identity() if groups is None else nn.GroupNorm(groups, channels, eps)
        self.attention, self.divisor = SelfAttention(channels, heads), divisor

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return (x + self.attention(tokens).transpose(1, 2).reshape(x.shape)) / self.divisor


class Halve(nn.Module):
    """A convolution of stride 2, with a border of zeros on all sides, or on the right and below only (padding 0)."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.conv, self.padding = nn.Conv2d(channels, channels, 3, stride=2, padding=padding), padding

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))
        return out


class Double(nn.Module):
    """Each pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(doubled(x))
        return out


class Stage(nn.Module):
    """The blocks of one resolution, an attention after each or none, and the change of resolution, or None."""

    def __init__(self, blocks: list[TimedResidual], attentions: list[PixelAttention], change: nn.Module | None) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(blocks)
        self.attentions: Any = nn.ModuleList(attentions)
        self.change, self.timed = change, isinstance(change, TimedResidual)

    def changed(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return x at the next resolution."""
        assert self.change is not None
        out: Tensor = self.change(x, embedding) if self.timed else self.change(x)
        return out
