"""Writes a path model as a DDPM pipeline of diffusers: what `load` reads of one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward._checks import shown
from pushforward.bijections.centred import Centred
from pushforward.errors import UserError
from pushforward.families.path_model import PathModel
from pushforward.formats.diffusers_folder import INDEX, LEVELS, PARTS
from pushforward.formats.diffusers_scheduler import PREDICTIONS, SCHEDULES
from pushforward.formats.diffusers_unet import DOWN, UP, names_of
from pushforward.formats.files import check_replaceable, write_folder
from pushforward.formats.tensor_file import write_tensors
from pushforward.nn.unet_2d import UNet2D
from pushforward.nn.with_variance import WithVariance
from pushforward.paths.discrete import Discrete
from pushforward.registry import export
from pushforward.samplers.clipping import Clipping
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.ddpm import DDPM
from pushforward.samplers.knots import Knots

VERSION = "0.42.1"  # of diffusers, whose configurations these are


@export("formats.write_diffusers")
def write_diffusers(folder: str | Path, model: PathModel) -> Path:
    """Write a model as a pipeline folder that diffusers (`DDPMPipeline.from_pretrained`) and `pushforward.load` read.

    The row of `UNet2D`'s labels that stands for no class has no place there and is left out.

    Args:
        folder: where; a folder that this wrote is replaced, one that holds anything else never.
        model: a model with the network `nn.UNet2D.Config`, `path=Discrete(...)`, `preprocess="centred"`, `levels=256`, and the sampler
            DDPM, or DDIM with eta = 0, on the grid `Knots`.

    Returns:
        The folder.

    Raises:
        UserError: the model has something that such a folder cannot state; the message names it.

    Example:
        >>> import pushforward as pf, tempfile
        >>> net = pf.nn.UNet2D.Config((8, 8), ("conv", "conv"), ("conv", "conv"), groups=4)
        >>> sampler = pf.samplers.DDPM(100, grid=pf.samplers.Knots("leading"))
        >>> model = pf.models.ddpm(net, (1, 8, 8), preprocess="centred", levels=256, sampler=sampler)
        >>> pf.load(pf.formats.write_diffusers(tempfile.mkdtemp() + "/tiny", model)).shape
        (1, 8, 8)
    """
    folder = Path(folder)
    check_replaceable(folder, (INDEX, *PARTS), INDEX)
    if not isinstance(model, PathModel) or not isinstance(model.path, Discrete):
        raise UserError(f"model is {shown(model)}, but such a folder holds a path model on paths.Discrete.")
    if not isinstance(model.preprocess, Centred) or model.levels != LEVELS:
        raise UserError(f"levels is {model.levels}, but such a folder holds images of 256 levels; use preprocess='centred', levels=256.")
    learned = isinstance(model.net, WithVariance)
    net: Any = model.net.net if isinstance(model.net, WithVariance) else model.net
    settings = None if model.config is None else model.config["model"].get("net")
    if not isinstance(net, UNet2D) or not isinstance(settings, UNet2D.Config):
        raise UserError(f"the network is {shown(net)}, but such a folder holds an nn.UNet2D made of its Config.")
    configs = {
        "unet": _unet(settings, model.shape, model.classes, 2 if learned else 1),
        "scheduler": _betas(model.path) | _steps(model, learned),
    }

    def fill(temporary: Path) -> None:
        index = {"_class_name": "DDPMPipeline", "_diffusers_version": VERSION}
        _write(temporary / INDEX, index | {name: ["diffusers", config["_class_name"]] for name, config in configs.items()})
        for name, file in (("unet", "config.json"), ("scheduler", "scheduler_config.json")):
            (temporary / name).mkdir()
            _write(temporary / name / file, configs[name])
        write_tensors(temporary / "unet" / "diffusion_pytorch_model.safetensors", _tensors(net), {"format": "pt"})

    write_folder(folder, fill, manifest=False)
    return folder


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _unet(net: UNet2D.Config, shape: tuple[int, ...], classes: int | None, outputs: int) -> dict[str, Any]:
    """Return the config.json of a network."""
    changes = []
    for half, kinds, blocks in (("down", net.down, DOWN), ("up", net.up, UP)):
        attended = {kind.removesuffix(" attention") for kind in kinds if kind.endswith("attention")}
        if len(attended) > 1:
            raise UserError(f"{half} is {kinds}, but levels with attention change resolution in one way in diffusers; use one of the two.")
        names = {kind: block for block, kind in blocks.items()} | {"residual attention": f"Attn{half.capitalize()}Block2D"}
        changes.append(([names[kind] for kind in kinds], "resnet" if attended == {"residual"} else "conv"))
    if net.middle not in (0, 2):
        raise UserError(f"middle is {net.middle}, but a UNet2DModel has 2 blocks there, or none.")
    (down, change_down), (up, change_up) = changes
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": VERSION,
        "sample_size": shape[1] if shape[1] == shape[2] else list(shape[1:]),
        "in_channels": shape[0],
        "out_channels": outputs * shape[0],
        "center_input_sample": net.centred,
        "time_embedding_type": "positional",
        "time_embedding_dim": net.features,
        "freq_shift": net.frequency_shift,
        "flip_sin_to_cos": not net.sine_first,
        "down_block_types": down,
        "up_block_types": up,
        "mid_block_type": "UNetMidBlock2D" if net.middle else None,
        "block_out_channels": list(net.channels),
        "layers_per_block": net.depth,
        "mid_block_scale_factor": net.middle_divisor,
        "downsample_padding": net.padding,
        "downsample_type": change_down,
        "upsample_type": change_up,
        "dropout": net.dropout,
        "act_fn": "silu",
        "attention_head_dim": net.head,
        "norm_num_groups": net.groups,
        "attn_norm_num_groups": net.middle_groups,
        "norm_eps": net.eps,
        "resnet_time_scale_shift": "scale_shift" if net.modulated else "default",
        "add_attention": net.middle_attention,
        "num_class_embeds": classes,
    }


def _betas(path: Discrete) -> dict[str, Any]:
    """Return the entries of a path."""
    steps = path.knots
    common = {"num_train_timesteps": steps, "rescale_betas_zero_snr": path.zero_terminal_snr}
    if not isinstance(path.betas, str):
        return common | {"trained_betas": list(path.betas)}
    theirs = {own: name for name, own in SCHEDULES.items()}
    first, last = 0.1 / steps if path.first is None else path.first, 20 / steps if path.last is None else path.last
    return common | {"beta_schedule": theirs[path.betas], "beta_start": first, "beta_end": last}


def _steps(model: PathModel, learned: bool) -> dict[str, Any]:
    """Return the entries of a sampler and of the prediction."""
    sampler = model.sampler
    predictions = {own: name for name, own in PREDICTIONS.items()}
    if model.prediction not in predictions:
        raise UserError(f"prediction is {model.prediction!r}, but a scheduler knows {', '.join(predictions)}.")
    if not isinstance(sampler, DDPM | DDIM) or not isinstance(sampler.grid, Knots) or (isinstance(sampler, DDIM) and sampler.eta):
        raise UserError(f"the sampler is {sampler}, but such a folder states DDPM, or DDIM with eta = 0, on the grid Knots.")
    clip, ddim = sampler.clip, isinstance(sampler, DDIM)
    if (clip is not None and clip.keep_noise != ddim) or (sampler.grid.last == "knot" and not ddim):
        raise UserError(f"the sampler is {sampler}, but in diffusers DDIM keeps the noise where it clips, and DDPM goes to the data.")
    found = {
        "_class_name": f"{type(sampler).__name__}Scheduler",
        "_diffusers_version": VERSION,
        "prediction_type": predictions[model.prediction],
        "timestep_spacing": sampler.grid.spacing,
        "steps_offset": sampler.grid.offset,
        **_clipping(clip),
    }
    if isinstance(sampler, DDIM):
        return found | {"set_alpha_to_one": sampler.grid.last == "data"}
    variance = "learned_range" if learned and sampler.variance == "auto" else f"fixed_{sampler.variance.replace('auto', 'small')}"
    return found | {"variance_type": variance}


def _clipping(clip: Clipping | None) -> dict[str, Any]:
    """Return the entries of what a sampler clips."""
    if clip is None or clip.threshold is None:
        return {"clip_sample": clip is not None, "clip_sample_range": 1.0 if clip is None else clip.reach, "thresholding": False}
    if clip.reach != 1:
        raise UserError(f"clip is {clip}, but thresholding of diffusers is for the range [-1, 1]; use reach=1.")
    limit = min(clip.limit, 1e9)  # JSON has no infinity
    return {"clip_sample": False, "thresholding": True, "dynamic_thresholding_ratio": clip.threshold, "sample_max_value": limit}


def _tensors(net: UNet2D) -> dict[str, Callable[[], Tensor]]:
    """Return diffusers' tensors, each made when it is written."""
    found: dict[str, Callable[[], Tensor]] = {}
    for key, tensor in net.state_dict().items():
        whole = tensor[:-1] if key == "label.table.weight" else tensor
        names = names_of(key)
        for name, part in zip(names, torch.chunk(whole, len(names)), strict=True):
            found[name] = lambda part=part: part  # type: ignore[misc]
    return found
