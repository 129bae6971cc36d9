"""Stable Diffusion 3: a rectified flow over latents, whose velocity is a transformer of image and text tokens.

Paper: Esser et al., Scaling rectified flow transformers for high-resolution image synthesis, 2024, arXiv 2403.03206.
What it adds to rectified flow: times drawn from a logit-normal, where the velocity is hardest (its section 3.1); an autoencoder of 16
channels instead of 4 (5.2); a transformer in which image and text have their own weights and one attention (4), with normalised queries
and keys in the 3.5 models (5.3.1); steps shifted towards noise, as large images need (5.3.2); three text encoders. So the model here is a
`PathModel` on the linear path; everything else prepares its inputs and processes its outputs.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward.conditions import TextContext
from pushforward.errors import ShapeError, UserError
from pushforward.families.path_model import PathModel
from pushforward.formats.eight_bits_write import Narrow
from pushforward.formats.sd3_names import Layout
from pushforward.formats.sd3_shift import GridShift
from pushforward.formats.sd3_write import write_sd3
from pushforward.guidance.around import loop_of
from pushforward.guidance.guidance import Guidance
from pushforward.guidance.inpaint import Inpaint
from pushforward.guidance.measured import Units
from pushforward.guidance.skip_layers import SkipLayers
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.eight_bits import Weights
from pushforward.nn.mmdit import MMDiT
from pushforward.registry import export
from pushforward.samplers.euler import Euler
from pushforward.samplers.sampler import Sampler
from pushforward.sd3 import generation, images
from pushforward.sd3.adapters import Adapters
from pushforward.sd3.editing import Editing
from pushforward.sd3.files import parts_to_write, read_parts, shift_of
from pushforward.sd3.latent_model import LatentModel
from pushforward.sd3.lora import Adapting
from pushforward.sd3.memory import Memory, memory_of_parts
from pushforward.sd3.progress import Pictures, Progress, Watch, solved
from pushforward.sd3.prompting import Prompting
from pushforward.sd3.prompts import checked_prompts
from pushforward.sd3.residence import REMEDY, Offload, Residence
from pushforward.sd3.run_files import read_run, run_of
from pushforward.sd3.text_model import PromptedTransformer
from pushforward.sd3.tokenizers import Tokenizer, find_tokenizer


@export("StableDiffusion3")
class StableDiffusion3(Prompting, Editing, Adapting):
    """Stable Diffusion 3 or 3.5: from prompts to images, with a `PathModel` over latents and all of its verbs.

    `model` is that PathModel, for latents of the default image size; `model_for(size)` is one for another size, with the same
    network. Images are (n, 3, height, width) in [0, 1] or PIL images, prompts are texts or a `TextContext`. With `offload` the verbs of
    `model` itself run inside `with sd3.residence.using("transformer")`.

    Args:
        transformer: the network.
        vae: the autoencoder.
        encoders: text encoders "clip_l", "clip_g" and "t5", modules of transformers; with {} prompts must be a `TextContext`.
        tokenizers: a function from an encoder's name to its tokenizer, called at the first prompt.
        device: device of the computation.
        offload: whether to move each component to the device only while it is used; "blocks" is one block of it at a time.
        shift: shift of the time grid towards noise, or what the scheduler of a checkpoint states, such as one by size.

    Source: Esser et al., 2403.03206.
    """

    def __init__(
        self,
        transformer: MMDiT,
        vae: AutoencoderKL,
        encoders: dict[str, nn.Module] | None = None,
        tokenizers: Callable[[str], Tokenizer] | None = None,
        *,
        device: torch.device | str = "cpu",
        offload: Offload = False,
        shift: GridShift = 3.0,
    ) -> None:
        self.transformer, self.vae, self.encoders, self.shift = transformer, vae, encoders or {}, shift
        self.device, self.tokenizer = torch.device(device), tokenizers
        self.variant, self.tokenizer_folders = "", dict[str, Path]()  # metadata of the files
        for part in (transformer, vae, *self.encoders.values()):
            part.eval()
        self.residence = Residence({"transformer": transformer, "vae": vae, **self.encoders}, self.device, offload, REMEDY)
        self.adapters = Adapters({"transformer": transformer, **self.encoders})
        self.pictures = Pictures(self.decoded, vae.latent_channels, vae.factor)
        self._models: dict[tuple[int, int], LatentModel] = {}
        side = min(1024, int(len(transformer.positions) ** 0.5) * self.step)
        self.size = (side, side)

    @staticmethod
    def from_pretrained(
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        tokenizers: str | Path | None = None,
        text_encoders: Any = None,
        t5: bool = True,
        offload: Offload = False,
        tiling: bool = False,
        transformer: str | Path | None = None,
        weights: Weights = "full",
    ) -> "StableDiffusion3":
        """Return the model of a file, a folder or a Hub id.

        Args:
            path: a single .safetensors file, a diffusers folder, a run of `pushforward train sd3` or its checkpoint, or a Hub id such as
                stabilityai/stable-diffusion-3.5-medium.
            dtype: dtype of the weights; None is the stored one (bfloat16 for 8 bits). The autoencoder is float32 where this is float16.
            device: device of the computation, such as "cuda".
            tokenizers: a folder with tokenizer, tokenizer_2 and tokenizer_3; None uses the model's own, else the public ones.
            text_encoders: separate files of text encoders, or their folder, in place of those in `path`.
            t5: whether to use T5; without it its embeddings are zeros, which saves 9.5 GB.
            offload: whether to move each component to the device only while it is used; "blocks" is one block of it at a time.
            tiling: whether the autoencoder processes tiles: a large image in the memory of a small one, with nearly the same result.
            transformer: a separate file of the transformer, .safetensors or .gguf, in place of that in `path`.
            weights: "full" keeps weights in `dtype`; "fp8" and "int8" keep those of the layers in 8 bits and widen them at each use.

        Raises:
            CheckpointError: the file is not Stable Diffusion 3, truncated, or lacks tensors.
            UserError: the path does not exist, or the repository is gated.
        """
        place = "cpu" if offload else device
        local = Path(path).expanduser()
        options: Any = {"transformer": transformer, "weights": weights}
        run = run_of(local)
        parts = read_run(local, dtype, place, **options) if run else read_parts(path, dtype, place, text_encoders, t5, **options)
        parts.vae.memory(slicing=True, tiling=tiling)
        find = functools.partial(find_tokenizer, own=parts.files.tokenizers, given=tokenizers)
        shift = shift_of(parts.files.scheduler)
        made = StableDiffusion3(parts.transformer, parts.vae, parts.encoders, find, device=device, offload=offload, shift=shift)
        made.variant, made.tokenizer_folders, made.texts = parts.files.variant, parts.files.tokenizers, parts.texts
        made.pictures.preview = Pictures.cached(path, parts.vae)
        made.size = made.size if parts.size is None else tuple(side * parts.vae.factor for side in parts.size)
        return made

    def save(self, path: str | Path, layout: Layout = "single", *, weights: Narrow | None = None) -> Path:
        """Write all parts to a file (without tokenizers) or a "diffusers" folder, in 8 bits on request (`write_sd3`); return its path."""
        self._check_saved_as_is()
        parts = parts_to_write(self.transformer, self.vae, self.encoders, self.tokenizer_folders, self.shift)
        return write_sd3(path, parts, layout, weights=weights)

    def memory(self, size: tuple[int, int] | None = None, n: int = 1, tokens: int = 256) -> Memory:
        """Return the memory in bytes that n images of this (height, width) need, by component, from a pass over fake tensors."""
        return memory_of_parts(self.transformer, self.vae, self.encoders, self._size_of(size, None), n, tokens)

    @property
    def step(self) -> int:
        """The divisor of image sides: 16 pixels, a patch of 2 latents of 8 pixels."""
        return self.vae.factor * self.transformer.patch

    @property
    def model(self) -> PathModel:
        """The rectified flow over latents (n, 16, height / 8, width / 8) of the default size."""
        return self.model_for(self.size)

    @property
    def text_model(self) -> PathModel:
        """The same with the text encoders inside, for their training: its condition is what `tokens_of` returns."""
        return self._model_of(PromptedTransformer(self.transformer, self.encoders), self.size)

    def model_for(self, size: tuple[int, int]) -> LatentModel:
        """Return the rectified flow over latents of images of this (height, width); all share the network."""
        size = images.checked_size(size, self.step)
        if size not in self._models:
            self._models.setdefault(size, self._model_of(self.transformer, size))  # that of another thread, if it was faster
        return self._models[size]

    def _model_of(self, net: nn.Module, size: tuple[int, int]) -> LatentModel:
        height, width = (side // self.vae.factor for side in size)
        sampler = Euler(generation.STEPS, grid=self.grid(size))
        model = LatentModel(net, (self.vae.latent_channels, height, width), sampler).eval()
        model.base.to(self.device)
        return model

    @torch.no_grad()
    def sample(
        self,
        prompts: str | Sequence[str] | TextContext,
        negative: str | Sequence[str] | TextContext = "",
        *,
        steps: int | None = None,
        guidance: Guidance | float | None = 7.0,
        size: tuple[int, int] | None = None,
        generator: generation.Seeds = None,
        sampler: Sampler | None = None,
        skip_layers: SkipLayers | Sequence[int] | None = None,
        image: Any = None,
        strength: float | None = None,
        mask: Any = None,
        latents: Tensor | None = None,
        shift: float | None = None,
        tokens: int = 256,
        output: images.Output = "pil",
        batch_size: int | None = None,
        callback: Callable[[Progress], Any] | None = None,
    ) -> Any:
        """Return one image for each prompt.

        Args:
            prompts: a text, n of them, or a `TextContext`.
            negative: negative prompts: one text for all, n of them, or a `TextContext`.
            steps: shorthand for sampler=Euler(steps, grid=Shifted(3, levels=1000)); 28 if neither is given.
            guidance: scale of classifier-free guidance; up to 1 it is off. A `CFG` may also have an interval of times and a rescaling;
                guidance by a measurement (`FlowDPS(measurement, y, 7.0)`) reads images (n, 3, height, width) in [0, 1].
            size: (height, width) in pixels, divisible by 16; by default the image's, or the model's default.
            generator: a seed, incremented from image to image; a list of n seeds or generators; or one generator. The image of a seed
                does not depend on the rest of its batch.
            sampler: solver of the ODE, or a stochastic sampler.
            skip_layers: blocks to skip in skip-layer guidance: their indices, with Stable Diffusion 3.5's scale of 2.8 between 1 % and
                20 % of the steps, or a `SkipLayers`.
            image: initial image (image to image), or the image to inpaint (with mask): one for all, or n.
            strength: share of the steps that are taken from the image, above 0 and at most 1; 0.6 by default, 1 with a mask.
            mask: white where to repaint, black where the image is kept; of the image's size.
            latents: initial noise (n, 16, height / 8, width / 8), instead of a random sample.
            shift: shift of the time grid towards noise; None is the model's: 3, or by size. (The paper's by size: 3 sqrt(pixels) / 1024.)
            tokens: number of T5 tokens in the context, 1 to 512.
            output: "pil", "tensor" (n, 3, height, width) or "array" (n, height, width, 3), float32 in [0, 1], or "latents".
            batch_size: images per chunk; None processes all together.
            callback: called with an `sd3.Progress` after each evaluation of the network; it may change the expected latents, and stop.

        Raises:
            UserError: arguments exclude each other or are out of range, or sides are not divisible by 16.
            OutOfMemoryError: the device has too little memory; the message names the options that help.
        """
        images.checked_output(output)
        if image is None and (mask is not None or strength is not None):
            raise UserError("a mask or strength is given without an image; give image=.")
        given = None if image is None else images.to_tensor(image)
        size = self._size_of(size, given)
        painted = None if mask is None else images.to_mask(mask, size)
        grid = self.grid(size, shift)
        whole = generation.sampler_of(sampler, steps, grid)
        steered = generation.guidance_of(guidance, skip_layers, generation.times_of(whole, grid), self.transformer)
        strength = (0.6 if mask is None else 1.0) if strength is None else strength
        if steered is not None and not steered.has_density and self.residence.offload:
            raise UserError(f"guidance is {steered}, which decodes while the transformer runs; load the model without offload.")
        loop = loop_of(steered, sampler if steps is None else whole)
        if loop is not None and given is not None:
            raise UserError(f"guidance is {steered}, a loop from noise, but an image is given to start from; leave one of them out.")
        whole = whole if loop is None else loop
        part, start = (whole, 1.0) if given is None else generation.part_of_the_way(whole, strength, grid)
        prompts, negative = checked_prompts(prompts), checked_prompts(negative, "negative")
        n, model = len(prompts), self.model_for(size)
        steered = None if steered is None else steered.on_model(model, self._pixels(size))
        for what, one in (("images", given), ("masks", painted)):
            if one is not None and len(one) not in (1, n):
                raise ShapeError(f"there are {len(one)} {what} for {n} prompts; give one for all, or one for each.")
        generators = generation.generators_of(generator, n)
        chunks = _random.chunks(n, batch_size, generators)
        made, drawn = [], generation.noise_of(model, latents, n, generators, self.device)
        cond = self.encode_prompt(prompts, tokens)
        steered = generation.with_negative(steered, lambda: self._negative(negative, n, tokens))
        known = None if given is None else self._encoded(given).expand(n, -1, -1, -1)
        for rows, draw in chunks:
            noise = drawn[rows]
            here = None if steered is None else steered.rows(rows, n)
            x = noise
            if known is not None:
                x = model.path.mix(known[rows], noise, noise.new_full((len(noise),), start))
                if painted is not None:
                    low = images.shrunk(painted, self.vae.factor).to(noise).expand(n, -1, -1, -1)[rows].expand_as(noise)
                    here = Inpaint(known[rows], low, noise, here)
            if callback is not None:
                here = Watch(callback, part.evaluations, self.pictures, range(n)[rows], n, here)
            part = loop_of(here, None) or part
            with self.residence.using("transformer"):
                x, stopped = solved(part, model.denoiser(cond[rows], here), x, start, draw)
            generation.check_images(x, rows, part, self.transformer.last.weight.dtype)
            made.append(x if output == "latents" else self._finished(x, given, painted, rows, n))
            if stopped:
                break
        return images.returned(torch.cat(made), output)

    def _pixels(self, size: tuple[int, int]) -> Units:
        """Return the units of images in [0, 1], in which guidance by a measurement reads it."""
        like = torch.empty(0, device=self.device)
        return Units(lambda latents: self.decoded(latents).float() / 2 + 0.5, (3, *size), like)

    def _size_of(self, size: Any, given: Tensor | None) -> tuple[int, int]:
        """Return (height, width): `size`, or that of the given images, or the default one."""
        own = self.size if given is None else (given.shape[2], given.shape[3])
        height, width = images.checked_size(own if size is None else size, self.step)
        if given is not None and own != (height, width):
            raise UserError(f"size is {height}x{width}, but the image is {own[0]}x{own[1]}; resize it, or leave size out.")
        return height, width

    def _finished(self, x: Tensor, given: Tensor | None, painted: Tensor | None, rows: slice, n: int) -> Tensor:
        made = images.finished(self.decoded(x)).cpu()
        if given is None or painted is None:
            return made
        return torch.lerp(images.finished(given).expand(n, -1, -1, -1)[rows], made, painted.expand(n, -1, -1, -1)[rows])
