"""The model that `pushforward finetune` trains: loaded, its data encoded by its own parts, and what is written of it."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward import registry
from pushforward.cli.generate import Generate
from pushforward.cli.text_images import CACHE, pairs_of
from pushforward.cli.train import Source
from pushforward.cli.tuning import run_of
from pushforward.data.bucketed import Bucketed, shapes_of
from pushforward.data.dataset import Dataset
from pushforward.errors import UserError
from pushforward.families.path_model import PathModel
from pushforward.formats.autoencoder_folder import write_autoencoder_folder
from pushforward.formats.config import load_yaml
from pushforward.formats.model import WEIGHTS, load, load_weights, read_weights
from pushforward.formats.run import checkpoints
from pushforward.models.stable_diffusion_3 import StableDiffusion3
from pushforward.samplers.grids import Shifted as Grid
from pushforward.sd3.generation import sampler_of
from pushforward.sd3.images import checked_size, finished
from pushforward.sd3.latent_buckets import cached_pairs
from pushforward.sd3.latent_model import LatentModel
from pushforward.sd3.latent_pairs import LatentPairs
from pushforward.sd3.latent_write import EncodesText
from pushforward.sd3.lora_training import matching
from pushforward.sd3.prompt_encoders import PromptEncoders
from pushforward.sd3.run_files import CONFIG, VAE, written_model
from pushforward.sd3.text_latents import TextLatents
from pushforward.sd3.text_model import PromptedTransformer
from pushforward.sd3.token_pairs import TokenPairs
from pushforward.times import LogitNormal, Shifted, Times
from pushforward.training.processes import processes
from pushforward.training.trainer import Trainer

LORA_FILE = "lora.safetensors"  # what is written into a run, or else the model


@dataclass(frozen=True)
class Base:
    """A Stable Diffusion 3 that is fine-tuned.

    Args:
        sd3: the model.
        flow: that of the run that it is, without weights; None of a model in files.
        texts: its text encoders.
        tuning: the command's options.
        source: the images, the run's folder, and the device.
        dtype: dtype of the transformer in its file.
    """

    sd3: StableDiffusion3
    flow: TextLatents | None
    texts: EncodesText
    tuning: Any
    source: Source
    dtype: torch.dtype

    @property
    def sections(self) -> dict[str, Any]:
        """The sections of config.yaml with which the result is a run of text to image itself, if it is one."""
        return {"texts": load_yaml(Path(self.tuning.model).expanduser() / CONFIG)["texts"]} if self.is_run else {}

    @property
    def is_run(self) -> bool:
        """Whether the result is a run of text to image."""
        return self.flow is not None and bool(self.tuning.full)

    def pairs(self, data: Dataset, split: str, of_prior: bool = False) -> LatentPairs | Bucketed:
        """Return the latents of images with their encoded captions, or with the captions' tokens if text encoders are trained."""
        cache = self.tuning.cache or self.source.out / CACHE
        folder, caption = (cache / "prior", self.tuning.prior_caption) if of_prior else (cache, self.tuning.caption)
        mirrored = self.tuning.mirrored and split == "train" and not of_prior
        with self.sd3.residence.using("vae"):
            among = processes()
            found = pairs_of(data, folder, split, self.sd3.vae, self.texts, among, mirrored=mirrored, caption=caption)
        if not self.tuning.text_encoders:
            return found
        return cached_pairs(data, folder, split, lambda place, split: TokenPairs(place, split, self._tokens))

    def model(self, shape: tuple[int, ...], seed: int) -> PathModel:
        """Return the flow over latents of a shape, in which only what is trained requires gradients."""
        times = self._times(shape)
        if self.is_run:
            return self._run(times)
        sd3, tuning = self.sd3, self.tuning
        if tuning.full:
            sd3.transformer.float()
        else:
            sd3.add_lora(tuning.rank, tuning.alpha, tuning.targets, tuning.text_encoders, dora=tuning.dora, seed=seed)
        net = PromptedTransformer(sd3.transformer, sd3.encoders) if tuning.text_encoders else sd3.transformer
        null = (self._tokens([""]) if tuning.text_encoders else self.texts.layout.none).to(self.source.device)
        return LatentModel(net, shape, sampler_of(None, None, self._grid(shape)), times, tuning.drop_text, null)

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Return the images (n, 3, height, width) in [0, 1] of latents."""
        return finished(self.sd3.decoded(latents))

    def _tokens(self, captions: Any) -> Any:
        return self.sd3.tokens_of(list(captions), self.tuning.tokens)

    def _grid(self, shape: tuple[int, ...]) -> Grid:
        """Return the model's grid of times for latents of a shape."""
        height, width = (side * self.sd3.vae.factor for side in shape[1:])
        return self.sd3.grid((height, width))

    def _times(self, shape: tuple[int, ...]) -> Times:
        if self.tuning.times is not None:
            return self.tuning.times
        if self.flow is not None:
            return self.flow.times
        shift = self._grid(shape).factor
        return LogitNormal() if shift == 1 else Shifted(LogitNormal(), shift)

    def _run(self, times: Times) -> PathModel:
        """Return the run's own model with these times and the share of texts that are dropped."""
        held = load(Path(self.tuning.model).expanduser())
        assert held.config is not None  # a preset built it
        changed = {**held.config["model"], "times": times, "drop_text": self.tuning.drop_text}
        model: PathModel = registry.get("models.sd3")(**changed)
        model.load_state_dict(held.state_dict())
        return model


def loaded(tuning: Any, source: Source) -> Base:
    """Return the model that is fine-tuned, after checking that data and options fit it.

    Raises:
        UserError: the images' size or the LoRA's targets do not fit, or a text encoder is missing.
    """
    flow, path = run_of(tuning.model), tuning.model
    dtype = None if tuning.dtype == "stored" else getattr(torch, tuning.dtype)
    options: dict[str, Any] = {"tokenizers": tuning.tokenizers, "text_encoders": tuning.encoders, "t5": tuning.t5}
    offload = source.device.type != "cpu"  # its parts are encoders first, and then only the transformer is trained
    sd3 = StableDiffusion3.from_pretrained(path, dtype=dtype, device=source.device, offload=offload, **options)
    for shape in shapes_of(source.train):
        checked_size(shape[1:], sd3.step)
    most = int(len(sd3.transformer.positions) ** 0.5) * sd3.step
    height, width = max((shape[1:] for shape in shapes_of(source.train)), key=max)
    if max(height, width) > most:
        raise UserError(f"the images are {width}x{height}, but the positions of {path} end at {most} pixels; give a smaller --size.")
    if not tuning.full:
        matching(sd3.transformer, tuning.targets)
    own = getattr(sd3.texts, "texts", None)  # a run's encoders
    texts: EncodesText = PromptEncoders(sd3, tuning.tokens, "empty") if own is None else own
    return Base(sd3, flow, texts, tuning, source, next(sd3.transformer.parameters()).dtype)


def written(base: Base, trainer: Trainer) -> Path:
    """Write the LoRA or the model with the weights that were best on validation, and return its path."""
    out, sd3 = base.source.out, base.sd3
    if base.is_run:
        write_autoencoder_folder(out / VAE, sd3.vae)
        return out
    file = checkpoints(out).path("best") / WEIGHTS
    load_weights(trainer.model, read_weights(file), file)
    if not base.tuning.full:
        return sd3.save_lora(out / LORA_FILE, base.tuning.layout)
    sd3.transformer.to(base.dtype)
    path = out / written_model(base.tuning.save_weights)
    return sd3.save(path, "diffusers") if base.tuning.save_weights == "full" else sd3.save(path, weights=base.tuning.save_weights)


def next_command(base: Base, result: Path, prompt: str) -> str:
    """Return the command that generates an image by the result, of the size and with the files that it was trained with."""
    tuning, model = base.tuning, str(result if base.tuning.full else base.tuning.model)
    words = ["pushforward", "generate", model, prompt]
    if not tuning.full:
        words += ["--lora", str(result)]
        words += [] if tuning.encoders is None else ["--text-encoders", str(tuning.encoders)]
    # A single file has no tokenizers, but the model that was fine-tuned may have.
    own = tuning.model if tuning.save_weights != "full" and base.sd3.tokenizer_folders else None
    tokenizers = own if tuning.tokenizers is None else tuning.tokenizers
    words += [] if tokenizers is None else ["--tokenizers", str(tokenizers)]
    words += [] if tuning.t5 else ["--no-t5"]
    height, width = shapes_of(base.source.train)[0][1:]
    if (height, width) != base.sd3.size:
        words += ["--height", str(height), "--width", str(width)]
    words += [] if tuning.tokens == Generate.tokens or base.flow is not None else ["--tokens", str(tuning.tokens)]
    return shlex.join((*words, "--out", "image.png"))
