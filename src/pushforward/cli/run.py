"""Shared by the commands: devices, data from settings, run folders."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pushforward._checks import device_named
from pushforward.cli.output import is_quiet
from pushforward.data.dataset import Dataset
from pushforward.data.load import load
from pushforward.errors import ConfigError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.formats.config import dump_yaml, load_yaml
from pushforward.formats.diffusers_folder import diffusers_config, is_diffusers
from pushforward.formats.files import write_text
from pushforward.formats.model import described, located
from pushforward.sd3.text_latents import TextLatents

CONFIG = "config.yaml"


def notify(text: str) -> None:
    """Print a line for the user to stderr as it is, unless --quiet is given: in a wrapped line a path could not be copied."""
    if not is_quiet():
        print(text, file=sys.stderr, flush=True)


def device_of(name: str, index: int | None = None) -> torch.device:
    """Return the device with this name; "auto" is the machine's accelerator, or the CPU if there is none.

    Args:
        name: "auto", or a torch device name.
        index: index of the accelerator if the name has none: one for each process of a machine.
    """
    return device_named("--device", name, index)


def load_data(section: Mapping[str, Any], split: str) -> Dataset:
    """Return a split of the data in a configuration's section `data`."""
    return load(data_section({"data": section})["name"], split, **data_options(section))


def data_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the section `data` of a configuration, which names the data."""
    section: Mapping[str, Any] = config.get("data", {})
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise ConfigError("the section data has no name; add `name: digits`, or the path of a file.")
    return section


def data_options(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a section `data`, without the name."""
    return {key: value for key, value in section.items() if key not in ("name", "fingerprint")}


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Write a run's configuration, and create its folder if it does not exist."""
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / CONFIG, dump_yaml(config))


def run_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a run, a saved model or a pipeline of diffusers."""
    if not run.is_dir():
        raise ConfigError(f"{run} is not a run folder; train one with `pushforward train`, or give the folder that --out named.")
    return diffusers_config(run) if is_diffusers(run) else load_yaml(run / CONFIG)


def described_run(run: Path, checkpoint: str = "best") -> GenerativeModel:
    """Return the model of a run without its weights, as `described` does, for commands that work on its data's own units.

    Raises:
        UserError: it makes images of texts, whose latents are not what such a command expects.
    """
    model = described(located(run, checkpoint))
    if isinstance(model, TextLatents):
        raise UserError(f"{run} makes images of texts; use `pushforward generate {run} PROMPT`, which decodes its latents.")
    return model


def check_file(path: Path, option: str) -> None:
    """Raise unless a file or folder can be written at this path, whose parents are created as far as they do not exist.

    Raises:
        UserError: a parent is no folder or not writable, or a name that ends as a file's is a folder.
    """
    if path.suffix and path.is_dir():
        raise UserError(f"{option} is {path}, which is a folder; give the name of a file.")
    check_folder(path.parent, f"{option} is {path}")


def check_no_data(path: Path, option: str, run: Path) -> None:
    """Raise if the file to be written is the one that a run was trained on.

    Raises:
        UserError: it is, and would be lost.
    """
    try:
        data = Path(data_section(run_config(run))["name"]).expanduser()
    except ConfigError:  # a saved model, which names no data
        return
    if path.exists() and data.exists() and path.samefile(data):
        raise UserError(f"{option} is {path}, the data that {run} was trained on, which would be lost; give another name.")


def check_folder(folder: Path, what: str) -> None:
    """Raise unless files can be written into a folder, which is created if it does not exist.

    Raises:
        UserError: it is no folder, or not writable, or it cannot be created.
    """
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{what}, but {folder} is no folder; give another path.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{what}, but the folder {folder} is not writable; give another path, or change its permissions.")
