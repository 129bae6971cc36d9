"""The autoencoder of latent diffusion: images of 8x8 times as many pixels as their latents have places."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pushforward import _random
from pushforward.errors import ShapeError, UserError
from pushforward.nn.tiles import tiled
from pushforward.registry import export

EPS = 1e-6


class Residual(nn.Module):
    """Two convolutions 3x3, each after a normalisation and SiLU, added to what came in (through a 1x1 one if channels change)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs, EPS), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs, EPS), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(_silu(self.norm2(self.conv1(_silu(self.norm1(x))))))
        return (x if self.short is None else self.short(x)) + h


class PixelAttention(nn.Module):
    """Self-attention of one head over all pixels, added to what came in."""

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
        heard = self.out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + heard.transpose(1, 2).reshape(x.shape)


class Down(nn.Conv2d):
    """Half the side, by a convolution 3x3 that sees one pixel of zeros beyond the right and lower edge and none beyond the others."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Conv2d):
    """Twice the side: each pixel becomes four, then a convolution 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution and the step to the next one, which the last has not."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int, change: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(inputs if k == 0 else outputs, outputs, groups) for k in range(blocks))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.change is None else self.change(x)


class Half(nn.Module):
    """Encoder or decoder: the middle, the one resolution with attention, stands at the latents' end of the levels."""

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
    return F.silu(x, inplace=not torch.is_grad_enabled())  # x is a normalisation's fresh output


@export("nn.AutoencoderKL", example=lambda: (AutoencoderKL(latent_channels=2, widths=(4, 8), groups=2), (torch.randn(2, 3, 4, 6),)))
class AutoencoderKL(nn.Module):
    """Images (n, channels, height, width) in [-1, 1] as latents, and back; both come scaled and shifted for a model of unit-sized data.

        latents = (z - shift) scale,    z ~ N(mean(x), exp(log_variance(x)))

    A latent has 1/2^(levels - 1) of the image's sides, 1/8 for four widths. It computes in the dtype of its weights and returns that of
    its input. In float16 the weights of Stable Diffusion's may overflow: use bfloat16 or float32.

    `memory` saves memory: `slicing` takes one image after the other, which changes nothing else. `tiling` cuts latents into squares of 64
    (images into those of 64 patches) that overlap by 16, and blends them linearly; as normalisation and attention then see a tile instead
    of the image, the result is close, not equal.

    Args:
        channels: channels of an image.
        latent_channels: channels of a latent.
        widths: channels at each resolution, from the image's inwards.
        blocks: residual blocks a resolution in the encoder; the decoder has one more.
        groups: groups of the normalisations, which divide the widths.
        scale: what z - shift is multiplied with.
        shift: what is taken off z.

    Raises:
        UserError: groups that do not divide the widths.
        ShapeError: an image whose sides the levels do not divide, or channels that are not these.

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
        if any(width % groups for width in widths):
            raise UserError(f"groups is {groups}, which does not divide all of the widths {tuple(widths)}; use a common divisor.")
        self.channels, self.latent_channels, self.scale, self.shift = channels, latent_channels, scale, shift
        self.widths, self.blocks, self.groups = tuple(widths), blocks, groups
        self.factor = 2 ** (len(widths) - 1)
        self.encoder = Half(channels, 2 * latent_channels, widths, blocks, groups, Down, middle_first=False)
        self.decoder = Half(latent_channels, channels, widths[::-1], blocks + 1, groups, Up, middle_first=True)
        self.slicing = self.tiling = False
        self.tile, self.overlap = 64, 16  # in places of a latent

    def forward(self, images: Tensor) -> Tensor:
        """Return images (n, channels, height, width) after encoding and decoding."""
        return self.decode(self.encode(images))

    def memory(self, slicing: bool = True, tiling: bool = True) -> "AutoencoderKL":
        """Set how much is done at once, and return the autoencoder itself."""
        self.slicing, self.tiling = slicing, tiling
        return self

    def encode(self, images: Tensor, generator: _random.Generators = None, sample: bool = False) -> Tensor:
        """Return latents (n, latent_channels, height / factor, width / factor), scaled and shifted.

        Args:
            images: (n, channels, height, width) in [-1, 1].
            generator: randomness of a sample; a list of n makes each image independent of its batch.
            sample: whether to draw z; otherwise it is the mean.
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
        if self.slicing and len(x) > 1:
            return torch.cat([self._apply_part(part, row, unit) for row in x.split(1)])

        def call(x: Tensor) -> Tensor:
            return cast(Tensor, part(x.to(self.decoder.first.weight.dtype)).to(x.dtype))

        tile, overlap = self.tile * unit, self.overlap * unit
        if self.tiling and max(x.shape[2:]) > tile:
            return tiled(call, x, tile, overlap)
        return call(x)
