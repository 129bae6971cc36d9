"""A run of `pushforward train sd3` as the parts of a Stable Diffusion 3: its flow's network, its autoencoder, its text encoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pushforward.errors import ConfigError, NoCheckpointError, UserError
from pushforward.formats.autoencoder_folder import read_autoencoder_of
from pushforward.formats.config import load_yaml
from pushforward.formats.model import load
from pushforward.formats.run import FINETUNE
from pushforward.formats.sd3 import SD3Files
from pushforward.nn.eight_bits import Weights
from pushforward.nn.mmdit import MMDiT
from pushforward.samplers.grids import Shifted
from pushforward.sd3.files import Parts
from pushforward.sd3.text import TextEncoders, text_encoders
from pushforward.sd3.text_latents import TextLatents
from pushforward.types import OnGrid

CONFIG, VAE = "config.yaml", "vae"


def has_run_files(path: Path) -> bool:
    """Return whether a folder has what is read of a run: its configuration and checkpoints."""
    return (path / CONFIG).is_file() and (path / "checkpoints").is_dir()


def run_of(path: Path) -> Path | None:
    """Return the run that a path is, or that it is a checkpoint of (RUN/checkpoints/last), None if it is neither."""
    run = path.parent.parent if path.parent.name == "checkpoints" else path
    return run if has_run_files(run) else None


def read_run(
    path: Path, dtype: torch.dtype | None, device: torch.device | str, transformer: Any = None, weights: Weights = "full"
) -> Parts:
    """Return the parts of a run, with averaged weights.

    Raises:
        UserError: another transformer or weights of 8 bits are asked for, or the run is a fine-tuning, whose result is a file in it.
        NoCheckpointError: the run is not one of text to image, or has no checkpoint or autoencoder.
        ConfigError: its configuration names no text encoders.
    """
    if transformer is not None or weights != "full":
        given = f"transformer is {transformer}" if transformer is not None else f"weights is {weights!r}"
        raise UserError(f"{given}, but {path} is a run, whose own transformer is small; leave it out.")
    run = run_of(path) or path
    config = load_yaml(run / CONFIG)
    if FINETUNE in config and "preset" not in config:
        raise UserError(_of_finetuning(run, config[FINETUNE]))
    if config.get("preset") != "sd3":
        raise NoCheckpointError(
            f"{path} is a run of the preset {config.get('preset')}, which makes no images of texts; use `pushforward sample {path}`."
        )
    names, tokens = _text_encoders(config, path)
    model = load(path)
    if not isinstance(model, TextLatents) or not isinstance(model.net, MMDiT):
        raise NoCheckpointError(f"{path} has a network of its own in place of an MMDiT; load it with pushforward.load.")
    vae = read_autoencoder_of(run / VAE, dtype=dtype, device=device)
    net = model.net.to(device=device, dtype=dtype)
    grid = model.sampler.grid if isinstance(model.sampler, OnGrid) else None
    scheduler = {"shift": float(grid.factor) if isinstance(grid, Shifted) else 1.0}
    texts = text_encoders(names, model.null_text, tokens=tokens, device=device)
    return Parts(net, vae, {}, SD3Files(net, vae, scheduler=scheduler, variant="a run of sd3"), RunTexts(texts), model.shape[1:])


def written_model(weights: str) -> str:
    """Return the name of a fine-tuned model in its run: a diffusers folder, or a file in 8 bits."""
    return "model" if weights == "full" else f"model-{weights}.safetensors"


def _of_finetuning(path: Path, section: Any) -> str:
    """Return what to give in place of a run of `pushforward finetune` on a model in files."""
    tuned = section if isinstance(section, dict) else {}
    if tuned.get("full"):
        return f"{path} holds a fine-tuned model; give {path / written_model(tuned.get('save_weights', 'full'))}."
    return f"{path} holds a LoRA; give {tuned.get('model', 'the model')} --lora {path / 'lora.safetensors'}."


def _text_encoders(config: dict[str, Any], path: Path) -> tuple[list[str], int]:
    """Return the text encoders that a run's configuration names, and how many tokens each of them sees."""
    section = config.get("texts")
    names, tokens = (section.get("text_encoders"), section.get("text_tokens")) if isinstance(section, dict) else (None, None)
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names) or not isinstance(tokens, int):
        raise ConfigError(
            f"{path / CONFIG} names no text encoders in its section texts, so no prompts can be encoded; give the folder of a run of "
            "`pushforward train sd3`."
        )
    return names, tokens


class RunTexts:
    """Encodes prompts as in the training of a run; the empty prompt is no text, whatever that is there.

    Args:
        texts: the text encoders.
    """

    def __init__(self, texts: TextEncoders) -> None:
        self.texts = texts

    def __call__(self, prompts: Sequence[str], tokens: int = 256) -> Any:
        """Return the `TextContext` of n prompts; the number of tokens is the run's own."""
        there = torch.tensor([bool(prompt.strip()) for prompt in prompts])
        return self.texts(list(prompts)).where(there, self.texts.empty(1))
