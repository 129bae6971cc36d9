"""Pipeline folders of diffusers (DDPM, DDIM) described as this library describes its own models: a preset and its arguments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pushforward.errors import ConfigError, NoCheckpointError
from pushforward.formats.config import to_plain
from pushforward.formats.diffusers_scheduler import read_scheduler
from pushforward.formats.diffusers_tensors import Tensors
from pushforward.formats.diffusers_unet import fill, read_unet, sources
from pushforward.formats.sd3_find import read_json
from pushforward.nn.unet_2d import UNet2D
from pushforward.nn.with_variance import WithVariance

INDEX = "model_index.json"
LEVELS = 256
PARTS = ("unet", "scheduler")


def is_diffusers(folder: Path) -> bool:
    """Return whether a folder is one of diffusers' pipelines."""
    return (folder / INDEX).is_file()


def diffusers_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a pipeline folder, with the sections preset and model, as `formats.model.build` reads it.

    Raises:
        NoCheckpointError: it is a pipeline of other parts than a U-Net and a scheduler.
        ConfigError: its network or scheduler has no counterpart here, or a file cannot be read.
    """
    index = read_json(folder / INDEX)
    present = [name for name, part in index.items() if not name.startswith("_") and isinstance(part, list) and part and part[0]]
    others = [name for name in present if name not in PARTS]
    kind = index.get("_class_name", "pipeline")
    if others or "unet" not in present:
        remedy = "; use pf.models.stable_diffusion_3" if "transformer" in others else ""
        has = f"with the part {others[0]}" if others else "without a unet"
        raise NoCheckpointError(f"{folder} is a {kind} {has}, but only pipelines of a unet and a scheduler are read here{remedy}.")
    place = _part(folder, "scheduler", "scheduler_config.json")
    scheduler = read_scheduler(_read(place), place)
    place = _part(folder, "unet", "config.json")
    unet = read_unet(_read(place), place, scheduler.path.knots)
    if scheduler.learned_variance != (unet.outputs == 2):
        has = "predicts" if unet.outputs == 2 else "does not predict"
        raise ConfigError(
            f"{folder}: the network {has} a variance (out_channels), but the scheduler's variance_type states the opposite; "
            "'learned_range' goes with twice the channels."
        )
    model = {
        "net": unet.net,
        "shape": unet.shape,
        "path": scheduler.path,
        "prediction": scheduler.prediction,
        "learn_variance": scheduler.learned_variance,
        "preprocess": "centred",
        "levels": LEVELS,
        "sampler": scheduler.sampler,
        "classes": unet.classes,
    }
    return {"preset": "ddpm", "model": to_plain(model)}


def check_diffusers(folder: Path, model: nn.Module) -> None:
    """Raise unless the tensors of a pipeline folder fit its model; none is read.

    Raises:
        CheckpointError: one is missing, left over or of another shape.
    """
    sources(_network(model), _tensors(folder))


def fill_diffusers(folder: Path, model: nn.Module) -> None:
    """Copy the weights of a pipeline folder into its model.

    Raises:
        CheckpointError: they do not fit; nothing is copied.
    """
    fill(_network(model), _tensors(folder))


def _tensors(folder: Path) -> Tensors:
    return Tensors(_part(folder, "unet", "config.json").parent)


def _network(model: Any) -> UNet2D:
    net = model.net.net if isinstance(model.net, WithVariance) else model.net
    assert isinstance(net, UNet2D)
    return net


def _part(folder: Path, name: str, file: str) -> Path:
    """Return a part's file: in a folder of its own, or next to the index, where the first pipelines have it."""
    return folder / name / file if (folder / name).is_dir() else folder / file


def _read(path: Path) -> Mapping[str, Any]:
    found = read_json(path)
    if not found:
        raise NoCheckpointError(f"there is no {path}, or it is empty; download the pipeline again.")
    return found
