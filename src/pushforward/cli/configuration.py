"""The settings that `pushforward train` takes from a configuration: that of --config, or of the run that --resume continues."""

import inspect
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pushforward import registry
from pushforward.cli.options import from_data
from pushforward.cli.run import run_config
from pushforward.errors import ConfigError, UserError
from pushforward.formats.config import call_checked, dump_yaml, from_plain, load_yaml
from pushforward.formats.packages import PACKAGES, check_packages
from pushforward.formats.run import FINETUNE, checkpoints
from pushforward.training.settings import Settings

SECTIONS = ("preset", "model", "data", "texts", "training", PACKAGES, "versions")


def base_config(given: Sequence[str]) -> dict[str, Any]:
    """Return the configuration that --config names, or the run's own under --resume, before parsing the other options."""
    peek = _named(given)
    if "--resume" in given:
        if "--out" not in peek:
            raise UserError("--resume needs the run to continue: give --out FOLDER.")
        config = run_config(Path(peek["--out"]))
    else:
        config = load_yaml(Path(peek["--config"])) if "--config" in peek else {}
    check_packages(config, "the configuration")
    return config


def settled(given: Sequence[str]) -> list[str]:
    """Return a command line whose `--resume auto` is --resume if the run has a checkpoint, and --overwrite, of an unfinished start, if not.

    Raises:
        UserError: the run is not given.
    """
    found = list(given)
    place = next((k for k, one in enumerate(found) if one == "--resume=auto" or found[k : k + 2] == ["--resume", "auto"]), None)
    if place is None:
        return found
    rest = found[place + 1 if found[place] == "--resume=auto" else place + 2 :]
    others = [*found[:place], *rest]
    out = _named(others).get("--out")
    if out is None:
        raise UserError("--resume auto needs the run to continue or to begin: give --out FOLDER.")
    return [*found[:place], "--resume" if checkpoints(Path(out)).names() else "--overwrite", *rest]


def _named(given: Sequence[str]) -> dict[str, str]:
    """Return the values of --config and --out on a command line."""
    named = {flag: given[k + 1] for k, flag in enumerate(given[:-1]) if flag in ("--config", "--out")}
    return named | {flag: value for flag, _, value in (one.partition("=") for one in given) if value and flag in ("--config", "--out")}


def refuse_preset(preset: str, config: Mapping[str, Any], resume: bool) -> None:
    """Raise if the settings of another preset, in a run to resume or a configuration, cannot be those of this one."""
    if resume:
        raise UserError(f"the run to resume was trained with preset {config['preset']}, not {preset}; leave the preset out.")
    parameters = inspect.signature(registry.get(f"models.{preset}")).parameters
    other = next((key for key in section_of(config, "model") if key not in parameters), None)
    if other is not None:
        raise UserError(
            f"--config is of the preset {config['preset']}, whose setting {other!r} {preset} does not have; leave {preset} out."
        )


def section_of(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section of a configuration, empty if there is none.

    Raises:
        ConfigError: it is no mapping, or the configuration has a section that is not known.
    """
    section = config.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"the section {name} is {section!r}, but it must be a mapping.")
    unknown = [key for key in config if key not in SECTIONS]
    if unknown:
        raise ConfigError(f"configuration: {registry.unknown('section', str(unknown[0]), SECTIONS)}")
    return section


def settings_of(section: Any) -> Settings:
    """Return the settings of a section `training`."""
    if not isinstance(section, dict):
        raise ConfigError(f"the section training is {section!r}, but it must be a mapping.")
    return call_checked(Settings, section, "training")


def model_defaults(function: Any, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a section `model`, validated against the preset, without those that the data determines."""
    given = {key: value for key, value in section.items() if key not in from_data(function)}
    parameters = inspect.signature(function).parameters
    for key in given:
        if key not in parameters:
            raise ConfigError(f"model: {registry.unknown('setting', key, parameters)}")
    hints = typing.get_type_hints(function)
    return {key: from_plain(value, hints.get(key, Any), f"model.{key}") for key, value in given.items()}


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Raise if the model or data to resume differs from the run's, or what was fine-tuned."""
    now = yaml.safe_load(dump_yaml(now))
    if before.get("preset") == now.get("preset"):
        before = {**before, "model": _completed(before.get("model"), now.get("model"), f"models.{now.get('preset')}")}
    for name in ("preset", "data", "model", FINETUNE):
        if before.get(name) != now.get(name):
            old, new = before.get(name), now.get(name)
            if isinstance(old, dict) and isinstance(new, dict):
                key = next(key for key in (*old, *new) if old.get(key) != new.get(key))
                name, old, new = f"{name}.{key}", old.get(key), new.get(key)
            raise UserError(
                f"{out} was trained with {name} {old!r}, not {new!r}; resume it unchanged, or start a new run with another --out."
            )


def _completed(old: Any, new: Any, name: str = "") -> Any:
    """Return what a run has, with the defaults of settings that came after it, where the new configuration has these defaults."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_completed(*pair) for pair in zip(old, new, strict=True)]
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old
    made = {key: _completed(one, new.get(key)) for key, one in old.items()}
    name = name or str(new.get("name"))
    later = new.keys() - old.keys()
    if later and name in registry.names():
        options = inspect.signature(registry.get(name)).parameters
        defaults = {key: options[key].default for key in later if key in options}
        plain = yaml.safe_load(dump_yaml({key: one for key, one in defaults.items() if one is not inspect.Parameter.empty}))
        made |= {key: one for key, one in (plain or {}).items() if one == new[key]}
    return made
