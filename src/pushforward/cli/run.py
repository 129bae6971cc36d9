"""Shared by the commands: devices, data from settings, run folders."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pushforward.cli.options import named
from pushforward.data.dataset import Dataset
from pushforward.data.load import load
from pushforward.errors import ConfigError, UserError
from pushforward.formats.config import dump_yaml, load_yaml
from pushforward.formats.files import write_text

CONFIG = "config.yaml"


def notify(text: str) -> None:
    """Print a line for the user to stderr as it is: a wrapped path could not be copied, and brackets in one are no markup."""
    print(text, file=sys.stderr, flush=True)


def device_of(name: str, index: int | None = None) -> torch.device:
    """Return the device with this name; "auto" is the machine's accelerator, or the CPU if there is none.

    Args:
        name: "auto", or a torch device name.
        index: index of the accelerator if the name has none: one for each process of a machine.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        name = "cpu" if accelerator is None else accelerator.type
    try:
        device = torch.device(f"cuda:{index or 0}" if name == "cuda" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device is {name!r}, which this machine does not have; `pushforward doctor` lists its devices.") from None
    return device


def load_data(section: Mapping[str, Any], split: str) -> Dataset:
    """Return a split of the data in a configuration's section `data`."""
    name = section.get("name")
    if not isinstance(name, str):
        raise ConfigError("the section data has no name; add `name: digits`, or the path of a file.")
    return load(name, split, **data_options(section))


def data_options(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a section `data`, without the name."""
    return {key: value for key, value in section.items() if key not in ("name", "fingerprint")}


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Write a run's configuration, and create its folder if it does not exist."""
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / CONFIG, dump_yaml(config))


def run_config(run: Path) -> dict[str, Any]:
    """Return a run's configuration."""
    if not run.is_dir():
        raise ConfigError(f"{run} is not a run folder; train one with `pushforward train`, or give the folder that --out named.")
    return load_yaml(run / CONFIG)


def sampler_of(name: str | None, steps: int | None) -> Any:
    """Return the sampler with this name and number of steps, or None if neither is given, for the model's own.

    Raises:
        UserError: it is not a sampler, or chooses its own steps.
    """
    if name is None and steps is None:
        return None
    kind = named("samplers", name or "euler")
    takes_steps = dataclasses.is_dataclass(kind) and any(one.name == "steps" for one in dataclasses.fields(kind))
    if not hasattr(kind, "solves_ode"):
        raise UserError(f"--sampler is {name!r}, which is part of a sampler, not a sampler; try euler, heun or dopri5.")
    if steps is not None and not takes_steps:
        raise UserError(f"--steps is {steps}, but {name} chooses its own steps; leave --steps out, or use --sampler heun.")
    return kind() if steps is None else kind(steps=steps)
