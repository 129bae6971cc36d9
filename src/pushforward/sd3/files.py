"""Loads the parts of a Stable Diffusion 3 from files, and writes them."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pushforward._checks import shown
from pushforward.conditions import TextContext
from pushforward.errors import NoCheckpointError
from pushforward.formats.eight_bits_write import encoder_tensors
from pushforward.formats.sd3 import SD3Files, read_sd3
from pushforward.formats.sd3_shift import GridShift, grid_shift, shift_settings
from pushforward.nn.autoencoder_kl import AutoencoderKL
from pushforward.nn.eight_bits import Weights
from pushforward.nn.mmdit import MMDiT
from pushforward.sd3 import hub
from pushforward.sd3.text_encoders import text_encoder

EULER = "FlowMatchEulerDiscreteScheduler"
OTHER_STEPS = (  # settings of diffusers' scheduler that change its steps and are not followed
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


class Parts(NamedTuple):
    """The parts of a Stable Diffusion 3, the other content of its files, and, of a run, what encodes its texts and its (height, width)."""

    transformer: MMDiT
    vae: AutoencoderKL
    encoders: dict[str, nn.Module]
    files: SD3Files
    texts: Callable[..., TextContext] | None = None
    size: tuple[int, ...] | None = None


def read_parts(
    path: str | Path,
    dtype: torch.dtype | None,
    device: torch.device | str,
    text_encoders: Any,
    t5: bool,
    transformer: str | Path | None = None,
    weights: Weights = "full",
) -> Parts:
    """Return transformer, autoencoder and text encoders, and the other content of the files.

    Raises:
        NoCheckpointError: the transformer or the autoencoder is missing.
    """
    files = read_sd3(hub.local(path), dtype=dtype, device=device, text_encoders=text_encoders, transformer=transformer, weights=weights)
    if files.transformer is None or files.vae is None:
        part = "transformer" if files.transformer is None else "autoencoder (vae)"
        raise NoCheckpointError(f"{path} has no {part}, which is required to generate images; give the complete model.")
    if next(files.vae.parameters()).dtype == torch.float16:
        files.vae.float()  # its activations exceed float16's range
    encoders = {
        kind: text_encoder(kind, tensors, files.text_configs.get(kind), dtype=dtype, weights=weights)
        for kind, tensors in files.text_encoders.items()
        if kind != "t5" or t5
    }
    return Parts(files.transformer, files.vae, encoders, files)


def parts_to_write(
    transformer: MMDiT, vae: AutoencoderKL, encoders: dict[str, nn.Module], tokenizers: dict[str, Path], shift: GridShift
) -> SD3Files:
    """Return the parts in the form that `formats.write_sd3` accepts."""
    configs = {kind: encoder.config.to_dict() for kind, encoder in encoders.items()}  # type: ignore[union-attr, operator]
    tensors = {kind: encoder_tensors(encoder) for kind, encoder in encoders.items()}
    tensors.get("t5", {}).pop("encoder.embed_tokens.weight", None)  # tied to shared.weight
    return SD3Files(transformer, vae, tensors, configs, tokenizers, shift_settings(shift))


def shift_of(scheduler: Mapping[str, Any]) -> GridShift:
    """Return the shift of the grid of times that a scheduler's config.json states, which may be one by size.

    Warns:
        UserWarning: it states other steps than those of Euler's method on a grid of `samplers.Shifted`, which are not taken from it.
    """
    name = scheduler.get("_class_name", EULER)
    others = [] if name == EULER else [f"_class_name {name}"]
    others += [f"{key} {shown(scheduler[key])}" for key in OTHER_STEPS if scheduler.get(key)]
    if others:
        warnings.warn(
            f"the scheduler of the model states {', '.join(others)}, but steps are those of Euler's method on the grid without these; give "
            "sampler= for others.",
            stacklevel=3,
        )
    return grid_shift(scheduler)
