"""Autoencoders of images: fewer numbers than an image has, from which a decoder draws it again; no density, and no exact inverse."""

import copy
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward._checks import real
from pushforward._precision import wide
from pushforward.bases import Gaussian
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.centred import Centred
from pushforward.bijections.divergences import Divergence
from pushforward.conditions import unexpected
from pushforward.errors import NotInvertibleError, UserError
from pushforward.families.autoencoding import Frozen, Perceptual, batches_of, gaussian_kl, latent_shape
from pushforward.families.checks import device_of
from pushforward.families.model import GenerativeModel
from pushforward.guidance.guidance import Guidance
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.registry import export
from pushforward.samplers.sampler import Sampler

Reconstruction = Literal["l1", "l2"]
ROUNDING = 1e-3  # by which images may leave [0, 1]


def _example() -> tuple:
    net = AutoencoderKL(1, 2, (4, 8), blocks=1, groups=2, scale=1.0, shift=0.0)
    return Autoencoder(net, (1, 4, 4), kl_weight=0.1), torch.randn(4, 1, 4, 4), None


@export("families.Autoencoder", example=_example)
class Autoencoder(GenerativeModel):
    """Encode images as a Gaussian over latents, and decode latents as images.

        loss = (|x - y| + kl_weight KL) / d + perceptual_weight perceptual(x, y),    y = decoder(z)
        z ~ N(mean(x), exp(log_variance(x))),    KL = sum (mean^2 + exp(log_variance) - 1 - log_variance) / 2

    x and y are images in [-1, 1] of d numbers each; |x - y| is the sum of absolute differences ("l1") or of squares ("l2").

    `encode` returns the mean of the latents (n, *latent_shape), scaled and shifted to mean 0 and deviation 1 over training data; `decode`
    takes such latents, and `sample` decodes N(0, I). There is no log_prob. Conditions of training data are ignored, so that sets with
    labels train it as they are; the other verbs refuse them.

    Scale and shift are fitted by the Trainer, to 256 training examples, whenever it keeps weights, and by `fit_scale` to any data; until
    then latents are as the encoder returns them. They are buffers, so that a saved model has them.

    Args:
        net: the encoder and decoder, to be trained; its own scale and shift are not used.
        shape: shape (channels, height, width) of an image.
        reconstruction: "l1" or "l2".
        kl_weight: weight of KL in nats, relative to the sum over an image; 1e-6 is usual for latent diffusion.
        perceptual: a distance of two batches of images (n, channels, height, width) in [-1, 1], differentiable, which returns (n,) or a
            scalar, such as `nn.FeatureDistance(features)`; a copy of a module is frozen and held apart from the model's weights.
        perceptual_weight: its weight.
        preprocess, levels: as in `GenerativeModel`. Levels are encoded by the centre of their cells.

    Raises:
        ShapeError: the images do not fit the network.
        UserError: an unknown reconstruction, or a weight below 0.

    Example:
        >>> net = pf.nn.AutoencoderKL(3, 4, (8, 16), blocks=1, groups=4)
        >>> model = Autoencoder(net, (3, 16, 16))
        >>> model.encode(torch.rand(2, 3, 16, 16)).shape, model.sample(2).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 3, 16, 16]))

    Source: Kingma and Welling, Auto-encoding variational Bayes, 2013, arXiv 1312.6114; Rombach et al., 2112.10752, section 3.1.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        net: AutoencoderKL,
        shape: Sequence[int],
        *,
        reconstruction: Reconstruction = "l1",
        kl_weight: float = 1e-6,
        perceptual: Perceptual | None = None,
        perceptual_weight: float = 1.0,
        preprocess: Bijection | None = None,
        levels: int | None = None,
    ) -> None:
        latents = latent_shape(net, shape)
        super().__init__(shape, Gaussian(latents), preprocess=preprocess, levels=levels)
        self._latent_shape = latents
        if reconstruction not in get_args(Reconstruction):
            raise UserError(f"reconstruction is {reconstruction!r}, but it is 'l1' or 'l2'.")
        real("kl_weight", kl_weight, 0)
        real("perceptual_weight", perceptual_weight, 0)
        # Its parts, and not the network itself: training calls them, and what is compiled or hooked is what is called.
        self.encoder, self.decoder = net.encoder, net.decoder
        self._built: dict[str, Any] = {name: getattr(net, name) for name in ("channels", "latent_channels", "widths", "blocks", "groups")}
        self.reconstruction, self.kl_weight, self.perceptual_weight = reconstruction, kl_weight, perceptual_weight
        self._perceptual = None if perceptual is None else Frozen(perceptual)
        self.register_buffer("latent_mean", torch.zeros(()))
        self.register_buffer("latent_std", torch.ones(()))

    # What kind of model it is.

    @property
    def verbs(self) -> tuple[str, ...]:
        return ("loss", "sample", "encode", "decode")

    @property
    def invertible(self) -> bool:
        return False

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return self._latent_shape

    @property
    def solved(self) -> bool:
        return False

    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    def conditional_networks(self) -> list[nn.Module]:
        return []

    @property
    def side_multiple(self) -> int | None:
        """The factor by which latents are smaller than images."""
        return int(2 ** (len(self._built["widths"]) - 1))

    # Training.

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit `preprocess` to training images, and refuse images outside of [0, 1] where those are expected.

        Raises:
            UserError: they are.
        """
        if isinstance(self.preprocess, Centred) and self.preprocess.levels is None:
            low, high = float(x.min()), float(x.max())
            if not (low >= -ROUNDING and high <= 1 + ROUNDING):
                raise UserError(
                    f"the images have numbers from {low:g} to {high:g}, but without levels they must be in [0, 1]; rescale them, give "
                    "levels=256 for integers from 0 to 255, or preprocess='none' for numbers in [-1, 1]."
                )
        super().initialise(x)

    def settle(self, x: Tensor, cond: Any = None) -> None:
        self.fit_scale(x)

    def loss(self, x: Tensor, cond: Any = None, *, noise: Tensor | None = None, generator: _random.Generators = None) -> Tensor:
        super()._checked_cond(cond, x.shape[0] if isinstance(x, Tensor) and x.ndim else 0)
        return super().loss(x, None, noise=noise, generator=generator)

    def dequantised(self, x: Tensor, generator: _random.Generators = None) -> tuple[Tensor, Tensor | None]:
        """Return the centres of the cells of quantised data x (n, *shape), which no noise is added to, and None."""
        centres = x.floor() + 0.5
        return x + (centres - x).detach(), None  # differentiable as if x were continuous

    def _loss(self, x: Tensor, cond: Any, noise: Tensor | None, generator: _random.Generators) -> Tensor:
        if noise is not None:
            raise UserError("noise is given, but an autoencoder draws the noise of its latents by itself; leave it out.")
        mean, log_variance = self.moments(x)
        z = mean + (0.5 * log_variance).exp() * _random.normal(mean.shape, generator, mean.device, mean.dtype)
        y: Tensor = self.decoder(z)
        error = (x - y).to(wide(x))
        per_image = (error.abs() if self.reconstruction == "l1" else error.square()).flatten(1).sum(1)
        loss = (per_image + self.kl_weight * gaussian_kl(mean, log_variance)).mean() / x[0].numel()
        return loss if self._perceptual is None else loss + self.perceptual_weight * self._perceptual(x, y)

    # The verbs.

    def encode(self, x: Tensor, cond: Any = None, *, sampler: Sampler | None = None) -> Tensor:
        """Return the latents (n, *latent_shape) of images x (n, *shape): their mean, scaled and shifted; differentiable."""
        self._check(x, "x")
        self._checked_cond(cond, x.shape[0])
        _refuse(sampler=sampler)
        mean, _ = self.moments(self.centred(x))
        return (mean - self.latent_mean) / self.latent_std

    def decode(self, z: Tensor, cond: Any = None, *, sampler: Sampler | None = None, guidance: Guidance | float | None = None) -> Tensor:
        """Return the images (n, *shape) of latents z (n, *latent_shape); differentiable."""
        self._check(z, "z", shape=self.latent_shape)
        self._checked_cond(cond, z.shape[0])
        return self._from_model(self._sampled(z, None, sampler, guidance, None))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return decode(encode(x)) of images x (n, *shape)."""
        return self.decode(self.encode(x))

    def kl(self, x: Tensor) -> Tensor:
        """Return KL(N(mean(x), exp(log_variance(x))) | N(0, I)) of images x (n, *shape) in nats, (n,)."""
        self._check(x, "x")
        return gaussian_kl(*self.moments(self.centred(x)))

    @torch.no_grad()
    def fit_scale(self, data: Any, batch_size: int = 256) -> "Autoencoder":
        """Fit scale and shift of the latents to those of data: their mean is then 0 and their deviation 1, over all numbers.

        Args:
            data: images x (n, *shape), a data set, or an iterable of images or batches x or (x, cond), such as a DataLoader.
            batch_size: images that are encoded together.

        Returns:
            The model itself.
        """
        training = self.training
        self.eval()
        count, total, squares = 0, 0.0, 0.0
        try:
            for x in batches_of(data, batch_size):
                mean, _ = self.moments(self.centred(x.to(device_of(self), self.dtype)))
                count, total = count + mean.numel(), total + float(mean.double().sum())
                squares += float(mean.double().square().sum())
        finally:
            self.train(training)
        if count:
            self.latent_mean.fill_(total / count)
            self.latent_std.fill_(max(squares / count - (total / count) ** 2, 0.0) ** 0.5 or 1.0)  # of constant latents it is 1
        return self

    @torch.no_grad()
    def autoencoder(self, data: Any = None) -> AutoencoderKL:
        """Return a copy of the encoder and decoder as an `nn.AutoencoderKL` in eval mode, whose latents have mean 0 and deviation 1.

        It encodes images in [-1, 1], as `StableDiffusion3` and `formats.write_sd3` need it.

        Args:
            data: data that scale and shift are fitted to, as for `fit_scale`; None keeps those that the model has.
        """
        fitted = self if data is None else copy.deepcopy(self).fit_scale(data)
        scale, shift = 1 / float(fitted.latent_std), float(fitted.latent_mean)
        net = AutoencoderKL(**self._built, scale=scale, shift=shift).to(device_of(self), self.dtype)
        net.encoder.load_state_dict(self.encoder.state_dict())
        net.decoder.load_state_dict(self.decoder.state_dict())
        return net.eval()

    # What the verbs are made of.

    def check_sampler(self, sampler: Sampler | None = None) -> None:
        """Raise if a sampler is given, for which there is no use."""
        _refuse(sampler=sampler)

    def centred(self, x: Tensor) -> Tensor:
        """Return images in [-1, 1] from those in the data's units."""
        return self._to_model(x if self.levels is None else self.dequantised(x)[0])[0]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (n, *latent_shape) of the latents of images in [-1, 1], neither scaled nor shifted."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def _sampled(
        self, noise: Tensor, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, generator: _random.Generators
    ) -> Tensor:
        _refuse(sampler=sampler, guidance=guidance)
        images: Tensor = self.decoder(noise * self.latent_std + self.latent_mean)
        return images

    def _map(
        self, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, divergence: "str | Divergence | None"
    ) -> tuple[Bijection, Any]:
        raise NotInvertibleError(f"an autoencoder has no map: {_REASON}; use encode and decode.")

    def _check_density(self) -> None:
        raise NotInvertibleError(f"{_REASON}, so the model has no log_prob; use evaluation.reconstruction, or a flow for likelihoods.")

    def _checked_cond(self, cond: Any, n: int, look: bool = True) -> Any:
        if cond is not None:
            super()._checked_cond(cond, n, look)
            raise unexpected(cond, "autoencoder")
        return None


_REASON = "an autoencoder keeps fewer numbers than an image has, and its decoder only approximates the image"


def _refuse(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise UserError(f"{name} is {value!r}, but an autoencoder has no use for it, as its decoder is one pass; leave it out.")
