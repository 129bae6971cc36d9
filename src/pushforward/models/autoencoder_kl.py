"""The autoencoder of latent diffusion: images as a few channels of nearly Gaussian latents, at a fraction of their size, and back.

Papers: Kingma and Welling, Auto-encoding variational Bayes, 2013, arXiv 1312.6114; Rombach, Blattmann, Lorenz, Esser and Ommer,
High-resolution image synthesis with latent diffusion models, 2021, arXiv 2112.10752, section 3.1.
What it adds to pixels: a generative model of latents needs a fraction of the computation. The network's encoder predicts mean and variance
of each latent; a KL term, so small that it only keeps them within bounds, and a sampled latent make the decoder smooth. Latent diffusion's
weight of KL is 1e-6; with about 1 the model is the variational autoencoder of the first paper, whose samples decode N(0, I).
Ours: no discriminator; a perceptual distance is any function of two batches (`nn.FeatureDistance` makes one of features).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from pushforward.bijections.centred import Centred
from pushforward.errors import UserError
from pushforward.families.autoencoder import Autoencoder, Reconstruction
from pushforward.families.autoencoding import Perceptual
from pushforward.models.preset import Options, preset
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.registry import export


@dataclass(frozen=True)
class AutoencoderOptions(Options):
    """Options of autoencoders of images.

    Args:
        shape: shape (channels, height, width) of an image.
        perceptual: a distance of two batches of images (n, channels, height, width) in [-1, 1], which returns (n,) or a scalar: any
            differentiable function, such as `nn.FeatureDistance(features)`. Only training uses it, and no file keeps it.
        perceptual_weight: weight of that distance.
        preprocess: "centred" maps levels, or without them numbers in [0, 1], to [-1, 1]; "none" is for images that are in [-1, 1].
        levels: number of values of quantised images, 256 for 8 bits; None for continuous ones.
    """

    shape: Sequence[int]
    perceptual: Perceptual | None = field(default=None, kw_only=True)
    perceptual_weight: float = field(default=1.0, kw_only=True)
    preprocess: Literal["centred", "none"] = field(default="centred", kw_only=True)
    levels: int | None = field(default=None, kw_only=True)

    @classmethod
    def recorded(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "perceptual": None}

    @property
    def family_options(self) -> dict[str, Any]:
        """The arguments of Autoencoder after the weight of KL: perceptual, perceptual_weight, preprocess and levels."""
        if self.preprocess not in ("centred", "none"):
            raise UserError(f"preprocess is {self.preprocess!r}, but it is 'centred' or 'none'.")
        preprocess = Centred(self.levels) if self.preprocess == "centred" else None
        weights = {"perceptual": self.perceptual, "perceptual_weight": self.perceptual_weight}
        return {**weights, "preprocess": preprocess, "levels": self.levels}


def _example() -> tuple:
    return autoencoder_kl((1, 4, 4), 2, (4, 8), groups=2, kl_weight=0.1, preprocess="none"), torch.randn(4, 1, 4, 4), None


@export("models.autoencoder_kl", example=_example)
@preset
def autoencoder_kl(
    shared: AutoencoderOptions,
    latent_channels: int = 4,
    widths: Sequence[int] = (32, 64, 128),
    *,
    blocks: int = 1,
    groups: int = 8,
    reconstruction: Reconstruction = "l1",
    kl_weight: float = 1e-6,
) -> Autoencoder:
    """Encode images as a few channels of nearly Gaussian latents, as latent diffusion does.

        loss = (|x - y| + kl_weight KL) / d + perceptual_weight perceptual(x, y)

    with images x in [-1, 1] of d numbers, reconstructions y, |x - y| the sum of absolute differences ("l1") or of squares ("l2"), and KL
    the divergence of the latents' distribution from N(0, I) in nats. `model.autoencoder()` is the trained `nn.AutoencoderKL`, scaled.

    Args:
        latent_channels: channels of a latent: 4 in latent diffusion, 16 in Stable Diffusion 3.
        widths: channels at each resolution, from the image's inwards; each but the last halves the sides. Three widths leave a quarter.
        blocks: residual blocks per resolution of the encoder; the decoder has one more.
        groups: groups of the normalisations; must divide the widths.
        reconstruction: "l1" or "l2".
        kl_weight: weight of KL, relative to the sum over an image.

    Returns:
        An Autoencoder.

    Raises:
        ShapeError: the shape is not an image's, or its sides are not divisible by 2^(widths - 1).
        UserError: groups does not divide the widths, or a weight is below 0.

    Example:
        >>> model = autoencoder_kl((3, 32, 32), 8, (16, 32, 64))
        >>> trainer = pf.Trainer(model, torch.rand(64, 3, 32, 32), steps=2, batch_size=16).fit()
        >>> vae = model.autoencoder()
        >>> vae.encode(2 * torch.rand(4, 3, 32, 32) - 1).shape
        torch.Size([4, 8, 8, 8])
    """
    widths = tuple(widths)
    net = AutoencoderKL(shared.event_shape[0], latent_channels, widths, blocks=blocks, groups=groups, scale=1.0, shift=0.0)
    return Autoencoder(net, shared.event_shape, reconstruction=reconstruction, kl_weight=kl_weight, **shared.family_options)
