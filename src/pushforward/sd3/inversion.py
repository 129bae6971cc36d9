"""Inversion: from an image to its noise, to similar images, and to its log-density."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import shown
from pushforward.bijections.divergences import HutchinsonDivergence
from pushforward.conditions import TextContext
from pushforward.errors import ConditionError, NotFiniteError, ShapeError, UserError
from pushforward.families.checks import row_not_finite
from pushforward.families.path_model import PathModel
from pushforward.formats.sd3_shift import GridShift
from pushforward.guidance.guidance import Guidance
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.samplers.grids import Shifted
from pushforward.samplers.heun import Heun
from pushforward.samplers.sampler import Sampler
from pushforward.sd3 import generation, images
from pushforward.sd3.prompts import checked_prompts
from pushforward.sd3.residence import Residence

Prompts = str | Sequence[str] | TextContext
IMAGE_CHANNELS = 3


class Encoded(NamedTuple):
    """What `encode` returns: the noise (n, 16, height, width), the latents that it was computed from, and the reconstruction error (n,)."""

    noise: Tensor
    latents: Tensor
    error: Tensor


class Estimate(NamedTuple):
    """A log-density (n,) in nats of latents, and the standard error (n,) of its estimate."""

    log_prob: Tensor
    standard_error: Tensor


class Inversion:
    """The methods of `StableDiffusion3` that map images to noise, and its autoencoder on the device."""

    shift: GridShift
    size: tuple[int, int]
    device: torch.device
    residence: Residence
    vae: AutoencoderKL

    @property
    def step(self) -> int:
        """Divisor of image sides."""
        raise NotImplementedError

    def grid(self, size: tuple[int, int] | None = None, shift: float | None = None) -> Shifted:
        """Return the grid of times for images of this (height, width), None for the default size; with another shift than the model's."""
        height, width = self.size if size is None else size
        return generation.grid_of(self.shift, (height // self.step) * (width // self.step), shift)

    def model_for(self, size: tuple[int, int]) -> PathModel:
        """Return the rectified flow over latents of images of this size."""
        raise NotImplementedError

    def encode_prompt(self, prompts: Prompts, tokens: int = 256) -> TextContext:
        """Return the text encodings of n prompts."""
        raise NotImplementedError

    def decoded(self, latents: Tensor) -> Tensor:
        """Return the autoencoder's images (n, 3, height, width) in [-1, 1] of latents."""
        with self.residence.using("vae"):
            return self._finite(self.vae.decode(latents.to(self.device)), "decoding")

    def _returned(self, latents: Tensor, output: images.Output) -> Any:
        """Return latents in the form that is asked for."""
        if output == "latents":
            return latents
        return images.returned(images.finished(self.decoded(latents)).cpu(), output)

    def _encoded(self, given: Tensor) -> Tensor:
        images.checked_size((given.shape[2], given.shape[3]), self.step)
        with self.residence.using("vae"):
            return self._finite(self.vae.encode(given.to(self.device)), "encoding")

    def _finite(self, made: Tensor, what: str) -> Tensor:
        if row_not_finite(made) is not None:
            dtype = self.vae.decoder.first.weight.dtype
            narrow = dtype == torch.float16
            remedy = "which overflows; use vae.float() or vae.bfloat16()" if narrow else "so it is not the dtype; load intact weights"
            raise NotFiniteError(f"{what} returned NaN or infinity: the autoencoder computes in {dtype}, {remedy}.")
        return made

    def _negative(self, negative: Any, n: int, tokens: int) -> TextContext:
        return self._spread(negative, n, tokens, "negative prompts", "prompts")

    @torch.no_grad()
    def encode(
        self, image: Any, prompts: Prompts = "", *, sampler: Sampler | None = None, tokens: int = 256, are_latents: bool | None = None
    ) -> Encoded:
        """Return the noise that images map to under prompts, without guidance, and the reconstruction error.

        Args:
            image: a PIL image, a list of them, a tensor (n, 3, height, width) in [0, 1], or latents (n, 16, height, width).
            prompts: descriptions of the images: one for all, or n.
            sampler: solver of the ODE; None is Heun(28) on Stable Diffusion 3's grid, 56 evaluations in each direction.
            tokens: number of T5 tokens in the context.
            are_latents: whether `image` is latents (n, 16, height, width); None decides by the number of channels.

        Returns:
            noise, latents and error: the root mean square of decode(noise) - latents in units of the latents' own, for each image.
        """
        latents, model, cond = self._at(image, prompts, tokens, are_latents)
        sampler = self._exact(sampler, latents)
        with self.residence.using("transformer"):
            noise = model.encode(latents, cond, sampler=sampler)
            back = model.decode(noise, cond, sampler=sampler)
        error = (back - latents).flatten(1).square().mean(1).sqrt() / latents.flatten(1).square().mean(1).sqrt()
        return Encoded(noise, latents, error)

    @torch.no_grad()
    def decode(
        self,
        noise: Tensor,
        prompts: Prompts = "",
        *,
        guidance: Guidance | float | None = None,
        negative: Prompts = "",
        sampler: Sampler | None = None,
        tokens: int = 256,
        output: images.Output = "pil",
    ) -> Any:
        """Return the images of noise (n, 16, height, width): the inverse of `encode`, under the same prompts or others.

        Args:
            noise: as `encode` returns it.
            prompts: one for all, or n.
            guidance: none by default, as in `encode`.
            negative: negative prompts of guidance.
            sampler: solver of the ODE, as in `encode`.
            tokens: number of T5 tokens in the context.
            output: "pil", "tensor" (n, 3, height, width) or "array" (n, height, width, 3), float32 in [0, 1], or "latents".
        """
        images.checked_output(output)
        prompts, negative = checked_prompts(prompts), checked_prompts(negative, "negative")
        generation.check_floats("noise", noise)
        if noise.ndim != 4 or noise.shape[1] != self.vae.latent_channels:
            raise ShapeError(f"noise has shape {tuple(noise.shape)}, but it must be (n, {self.vae.latent_channels}, height, width).")
        noise, n = noise.to(self.device), len(noise)
        grid, sampler = self.grid(self._size(noise)), self._exact(sampler, noise)
        model = self.model_for(self._size(noise))
        steered = generation.guidance_of(guidance, None, generation.times_of(sampler, grid), model.net)
        cond = self._spread(prompts, n, tokens)
        steered = generation.with_negative(steered, lambda: self._negative(negative, n, tokens))
        with self.residence.using("transformer"):
            latents = model.decode(noise, cond, sampler=sampler, guidance=steered)
        return self._returned(latents, output)

    @torch.no_grad()
    def vary(
        self,
        image: Any,
        prompts: Prompts = "",
        *,
        amount: float = 0.3,
        generator: generation.Seeds = None,
        tokens: int = 256,
        are_latents: bool | None = None,
        **options: Any,
    ) -> Any:
        """Return a variation of each image: its noise is rotated towards new noise and decoded.

            noise' = sqrt(1 - amount²) noise + amount fresh

        Args:
            image: a PIL image, a list of them, a tensor (n, 3, height, width) in [0, 1], or latents (n, 16, height, width).
            prompts: descriptions of the images, or of the variations.
            amount: strength, from 0 (the image itself, up to the error of `encode`) to 1 (any image of the prompt).
            generator: a seed, or any generator argument of `sample`.
            tokens: number of T5 tokens in the context.
            are_latents: whether `image` is latents (n, 16, height, width); None decides by the number of channels.
            options: sampler, guidance, negative, output, as in `decode`.
        """
        if not 0 <= amount <= 1:
            raise UserError(f"amount is {amount}, but it must be from 0 (the image itself) to 1 (any other).")
        latents, model, cond = self._at(image, prompts, tokens, are_latents)
        with self.residence.using("transformer"):
            noise = model.encode(latents, cond, sampler=self._exact(options.get("sampler"), latents))
        fresh = _random.normal(noise.shape, generation.generators_of(generator, len(noise)), self.device, noise.dtype)
        return self.decode(math.sqrt(1 - amount**2) * noise + amount * fresh, cond, tokens=tokens, **options)

    @torch.no_grad()
    def log_prob(
        self,
        image: Any,
        prompts: Prompts = "",
        *,
        probes: int = 8,
        sampler: Sampler | None = None,
        generator: torch.Generator | None = None,
        tokens: int = 256,
        are_latents: bool | None = None,
    ) -> Estimate:
        """Return the log-density of images' latents under prompts, by Hutchinson's estimator, with its standard error.

        Args:
            image: a PIL image, a list of them, a tensor (n, 3, height, width) in [0, 1], or latents (n, 16, height, width).
            prompts: one for all, or n.
            probes: independent estimates to average, at least 2: each is a full ODE solve with one random direction.
            sampler: solver of the ODE; None is Heun(28) on Stable Diffusion 3's grid.
            generator: random generator of the directions.
            tokens: number of T5 tokens in the context.
            are_latents: whether `image` is latents (n, 16, height, width); None decides by the number of channels.

        Returns:
            log_prob (n,) in nats, of the latents in their own units, and standard_error (n,) of the
            random directions, without the discretisation error.
        """
        if probes < 2:
            raise UserError(f"probes is {probes}, but a standard error needs at least 2; try 8.")
        latents, model, cond = self._at(image, prompts, tokens, are_latents)
        sampler, divergence = self._exact(sampler, latents), HutchinsonDivergence()
        with self.residence.using("transformer"):
            values = [model.log_prob(latents, cond, sampler=sampler, divergence=divergence, generator=generator) for _ in range(probes)]
        stacked = torch.stack(values).double()
        return Estimate(stacked.mean(0), stacked.std(0) / math.sqrt(probes))

    def _at(self, image: Any, prompts: Prompts, tokens: int, are_latents: bool | None) -> tuple[Tensor, PathModel, TextContext]:
        """Return latents, their model and the condition of each."""
        prompts = checked_prompts(prompts)
        latents = self._latents(image, are_latents)
        return latents, self.model_for(self._size(latents)), self._spread(prompts, len(latents), tokens)

    def _latents(self, image: Any, are_latents: bool | None) -> Tensor:
        """Return images' latents: encoded, or as given."""
        channels, is_tensor = self.vae.latent_channels, isinstance(image, Tensor)
        if are_latents is None:
            if channels == IMAGE_CHANNELS and is_tensor and image.ndim in (3, 4) and image.shape[-3] == channels:
                raise UserError(
                    f"the image is a tensor of shape {tuple(image.shape)}, but this model's latents have 3 channels too; give "
                    "are_latents=False if it is an image, or are_latents=True."
                )
            are_latents = is_tensor and image.ndim == 4 and image.shape[1] == channels
        if not are_latents:
            return self._encoded(images.to_tensor(image))
        if not is_tensor or image.ndim != 4 or image.shape[1] != channels or not image.is_floating_point():
            given = f"{image.dtype} of shape {tuple(image.shape)}" if is_tensor else shown(image)
            raise ShapeError(f"the latents are {given}, but they must be a tensor of floats (n, {channels}, height, width).")
        return image.to(self.device, torch.float32)

    def _size(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[2] * self.vae.factor, latents.shape[3] * self.vae.factor

    def _spread(self, prompts: Prompts, n: int, tokens: int, what: str = "prompts", whose: str = "images") -> TextContext:
        """Return the text encodings of prompts, given once for all or one for each, expanded to n."""
        cond = self.encode_prompt(prompts, tokens)
        if len(cond) not in (1, n):
            raise ConditionError(f"there are {len(cond)} {what} for {n} {whose}; give one for all, or one for each.")
        return cond if len(cond) == n else cond.repeat(n)

    def _exact(self, sampler: Sampler | None, latents: Tensor) -> Sampler:
        return Heun(generation.STEPS, grid=self.grid(self._size(latents))) if sampler is None else sampler
