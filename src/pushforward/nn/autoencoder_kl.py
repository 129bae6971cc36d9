"""The autoencoder of latent diffusion: each position of a latent stands for 8x8 pixels of the image."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward import _random
from pushforward._checks import sizes, sizes_of
from pushforward.errors import ShapeError, UserError
from pushforward.functional.attention import attention
from pushforward.nn.tiles import tiled
from pushforward.registry import export

EPS = 1e-6


class Residual(nn.Module):
    """A residual block: two 3x3 convolutions, each after a normalisation and SiLU; a 1x1 convolution on the skip if channels change."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs, EPS), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs, EPS), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(_silu(self.norm2(self.conv1(_silu(self.norm1(x))))))
        return (x if self.short is None else self.short(x)) + h


class PixelAttention(nn.Module):
    """Single-head self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.GroupNorm(groups, channels, EPS),
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(pixels)[:, None].chunk(3, dim=3)
        attended = self.out(attention(q, k, v)[:, 0])
        return x + attended.transpose(1, 2).reshape(x.shape)


class Down(nn.Conv2d):
    """Downsample by 2 with a 3x3 convolution that pads one pixel of zeros at the right and lower edges only."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Conv2d):
    """Upsample by 2 (nearest neighbour), then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, then the change to the next resolution, which the last level lacks."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int, change: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(inputs if k == 0 else outputs, outputs, groups) for k in range(blocks))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.change is None else self.change(x)


class Half(nn.Module):
    """Encoder or decoder; the middle block, the only one with attention, is at the latents' resolution."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        change: Callable[[int], nn.Module],
        middle_first: bool,
    ) -> None:
        super().__init__()
        first, last = widths[0], widths[-1]
        deep = first if middle_first else last
        self.middle_first = middle_first
        self.first = nn.Conv2d(inputs, first, 3, padding=1)
        self.levels = nn.ModuleList(
            Level(widths[max(k - 1, 0)], width, blocks, groups, change(width) if k < len(widths) - 1 else None)
            for k, width in enumerate(widths)
        )
        self.middle = nn.Sequential(Residual(deep, deep, groups), PixelAttention(deep, groups), Residual(deep, deep, groups))
        self.norm, self.last = nn.GroupNorm(groups, last, EPS), nn.Conv2d(last, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.middle_first:
            x = self.middle(x)
        for level in self.levels:
            x = level(x)
        if not self.middle_first:
            x = self.middle(x)
        return self.last(_silu(self.norm(x)))


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not torch.is_grad_enabled())  # x is the output of a normalisation, used only here


@export("nn.AutoencoderKL", example=lambda: (AutoencoderKL(latent_channels=2, widths=(4, 8), groups=2), (torch.randn(2, 3, 4, 6),)))
class AutoencoderKL(nn.Module):
    """Encode images (n, channels, height, width) in [-1, 1] as latents, scaled and shifted to about unit variance, and decode them.

        latents = (z - shift) scale,    z ~ N(mean(x), exp(log_variance(x)))

    Height and width of a latent are 1/2^(levels - 1) of the image's, 1/8 for four widths. It computes in the dtype of its weights and
    returns that of its input. Stable Diffusion's weights may overflow in float16: use bfloat16 or float32.

    `memory` reduces memory: `slicing` processes one image at a time and changes nothing else. `tiling` cuts latents into overlapping tiles
    of side 64 (overlap 16), images correspondingly, and blends the tiles linearly; normalisation and attention then see a tile instead of
    the image, so the result is close, not equal.

    Args:
        channels: channels of an image.
        latent_channels: channels of a latent.
        widths: channels at each resolution, from the image's inwards.
        blocks: residual blocks per resolution in the encoder; the decoder has one more.
        groups: groups of the normalisations; must divide the widths.
        scale: factor applied to z - shift.
        shift: offset subtracted from z.

    Raises:
        UserError: groups does not divide the widths.
        ShapeError: the image's sides are not divisible by `factor`, or the number of channels is wrong.

    Source: Rombach et al., High-resolution image synthesis with latent diffusion models, 2112.10752, section 3.1; 16 channels, scale and
    shift as in Stable Diffusion 3 (2403.03206, section 5.2, and Stability-AI's sd3.5).
    """

    def __init__(
        self,
        channels: int = 3,
        latent_channels: int = 16,
        widths: Sequence[int] = (128, 256, 512, 512),
        *,
        blocks: int = 2,
        groups: int = 32,
        scale: float = 1.5305,
        shift: float = 0.0609,
    ) -> None:
        super().__init__()
        sizes(channels=channels, latent_channels=latent_channels, blocks=blocks, groups=groups)
        widths = sizes_of("widths", widths)
        if any(width % groups for width in widths):
            raise UserError(f"groups is {groups}, which does not divide all of the widths {tuple(widths)}; use a common divisor.")
        self.channels, self.latent_channels, self.scale, self.shift = channels, latent_channels, scale, shift
        self.widths, self.blocks, self.groups = tuple(widths), blocks, groups
        self.factor = 2 ** (len(widths) - 1)
        self.encoder = Half(channels, 2 * latent_channels, widths, blocks, groups, Down, middle_first=False)
        self.decoder = Half(latent_channels, channels, widths[::-1], blocks + 1, groups, Up, middle_first=True)
        self.slicing = self.tiling = False
        self.tile, self.overlap = 64, 16  # in latent pixels

    def forward(self, images: Tensor) -> Tensor:
        """Return images (n, channels, height, width) after encoding and decoding."""
        return self.decode(self.encode(images))

    def memory(self, slicing: bool = True, tiling: bool = True) -> "AutoencoderKL":
        """Turn slicing and tiling on or off, and return the autoencoder itself."""
        self.slicing, self.tiling = slicing, tiling
        return self

    def encode(self, images: Tensor, generator: _random.Generators = None, sample: bool = False) -> Tensor:
        """Return latents (n, latent_channels, height / factor, width / factor), scaled and shifted.

        Args:
            images: (n, channels, height, width) in [-1, 1].
            generator: randomness of a sample; a list of n makes each image independent of its batch.
            sample: whether to sample z; otherwise the mean is returned.
        """
        mean, log_variance = self.moments(images)
        if sample:
            mean = mean + (0.5 * log_variance).exp() * _random.normal(mean.shape, generator, mean.device, mean.dtype)
        return (mean - self.shift) * self.scale

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of z for images (n, channels, height, width), neither scaled nor shifted."""
        self._check(images, "images", self.channels)
        if images.shape[2] % self.factor or images.shape[3] % self.factor:
            near = [max(self.factor, round(side / self.factor) * self.factor) for side in images.shape[2:]]
            raise ShapeError(
                f"images are {images.shape[2]}x{images.shape[3]}, but sides must be divisible by {self.factor}; use {near[0]}x{near[1]}."
            )
        mean, log_variance = self._apply_part(self.encoder, images, self.factor).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (n, channels, height, width), about in [-1, 1], of scaled and shifted latents."""
        self._check(latents, "latents", self.latent_channels)
        return self._apply_part(self.decoder, latents / self.scale + self.shift, 1)

    def _check(self, x: Tensor, name: str, channels: int) -> None:
        if x.ndim != 4 or x.shape[1] != channels:
            raise ShapeError(f"{name} has shape {tuple(x.shape)}, but this autoencoder needs (n, {channels}, height, width).")

    def _apply_part(self, part: nn.Module, x: Tensor, unit: int) -> Tensor:
        if self.slicing and x.shape[0] > 1:
            return torch.cat([self._apply_part(part, row, unit) for row in x.split(1)])

        def call(x: Tensor) -> Tensor:
            return cast(Tensor, part(x.to(self.decoder.first.weight.dtype)).to(x.dtype))

        tile, overlap = self.tile * unit, self.overlap * unit
        if self.tiling and max(x.shape[2:]) > tile:
            return tiled(call, x, tile, overlap)
        return call(x)
