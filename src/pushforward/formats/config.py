"""Configurations as plain data: frozen records become mappings with a key `name`, and are validated when read back."""

import dataclasses
import difflib
import inspect
import math
import reprlib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from pushforward import registry
from pushforward._checks import alternatives
from pushforward._memory import memory_errors
from pushforward.errors import ConfigError, PushforwardError
from pushforward.formats.yaml_file import read_yaml
from pushforward.nn.config import NetConfig


def to_plain(value: Any) -> Any:
    """Return a configuration value as mappings, lists, strings, numbers, booleans and None.

    Raises:
        ConfigError: the value is a live object, such as a Module, which cannot be written to a file.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    name = value.name if isinstance(value, NetConfig) else getattr(type(value), "public_name", None)
    if not dataclasses.is_dataclass(value) or name is None:
        raise ConfigError(
            f"a {type(value).__name__} cannot be written to config.yaml; use settings instead, such as net=pf.nn.MLP.Config()."
        )
    fields = {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"name": name, **fields}


def from_plain(value: Any, annotation: Any, where: str) -> Any:
    """Return the value for an annotation, built from plain data and validated.

    Args:
        value: plain data, as read from YAML.
        annotation: the target type: a builtin, Literal, Union, tuple, or a class whose instances have public names.
        where: full name of the key, for error messages.

    Raises:
        ConfigError: a wrong type, an unknown key or name (with the closest valid one), or a value that its record rejects.
    """
    options = alternatives(annotation)
    if isinstance(value, Mapping) and "name" in value:
        record = _record(value, where)
        if not any(one is Any or (inspect.isclass(one) and isinstance(record, one)) for one in options):
            raise ConfigError(f"{where} is {value['name']}, but it must be {' or '.join(_described(one) for one in options)}.")
        return record
    for option in options:
        fitting = _fits(value, option, where)
        if fitting is not _NO:
            return fitting
    raise ConfigError(f"{where} is {_SHORT.repr(value)}, but it must be {' or '.join(_described(one) for one in options)}.")


MOST_FLOAT = 3.4e38
_NO = object()
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxtuple, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 3, 8, 8, 8, 200, 200


def _fits(value: Any, option: Any, where: str) -> Any:
    origin = typing.get_origin(option)
    if option is Any:
        return value
    if option in (None, type(None)):
        return None if value is None else _NO
    if origin is Literal:
        return value if value in typing.get_args(option) else _NO
    if option is float:
        return _as_float(value, where) if isinstance(value, int | float) and not isinstance(value, bool) else _NO
    if option in (int, bool, str):
        return value if type(value) is option else _NO
    if option is Path:
        return Path(value) if isinstance(value, str) else _NO
    if origin in (tuple, list, Sequence) and isinstance(value, list | tuple):
        inner = typing.get_args(option) or (Any,)
        if origin is tuple and inner[-1] is not Ellipsis:
            if len(inner) != len(value):
                return _NO
            return tuple(from_plain(one, kind, f"{where}[{k}]") for k, (one, kind) in enumerate(zip(value, inner, strict=True)))
        return tuple(from_plain(one, inner[0], f"{where}[{k}]") for k, one in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        inner = typing.get_args(option)[1]
        return {str(key): from_plain(one, inner, f"{where}.{key}") for key, one in value.items()}
    return value if inspect.isclass(option) and isinstance(value, option) else _NO


def _as_float(value: float, where: str) -> float:
    if MOST_FLOAT < abs(value) < math.inf:
        raise ConfigError(f"{where} is {value:g}, but numbers must be at most {MOST_FLOAT:g}, as weights are float32.")
    return float(value)


def _described(option: Any) -> str:
    if typing.get_origin(option) is Literal:
        return " or ".join(repr(one) for one in typing.get_args(option))
    if option in (None, type(None)):
        return "null"
    if inspect.isclass(option) and not option.__module__.startswith("builtins"):
        return f"a mapping with the key name (a {option.__name__})"
    return getattr(option, "__name__", str(option))


def _record(value: Mapping[str, Any], where: str) -> Any:
    name = value["name"]
    if not isinstance(name, str) or name not in registry.names():
        raise ConfigError(f"{where}: {registry.unknown('name', str(name)[:200], registry.names())}")
    thing = registry.get(name)
    kind = getattr(thing, "Config", thing)
    if not dataclasses.is_dataclass(kind):
        raise ConfigError(f"{where}: {name!r} cannot be described by settings; use a path, times, pairing, sampler, grid or network.")
    arguments = {key: one for key, one in value.items() if key != "name"}
    return call_checked(kind, arguments, f"{where} ({name})")  # type: ignore[arg-type]


def call_checked(function: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Any:
    """Return function(**arguments) after validating plain arguments against its signature and annotations.

    Raises:
        ConfigError: an unknown key (with the closest valid one), a missing one, a wrong type, or a value that cannot be used.
    """
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for key in arguments:
        if not isinstance(key, str):
            raise ConfigError(f"{where} has the setting {_SHORT.repr(key)}, but settings are words.")
        if key not in parameters:
            near = difflib.get_close_matches(key, parameters, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(parameters)}."
            raise ConfigError(f"{where} has no setting {key!r}; {hint}")
    missing = [key for key, one in parameters.items() if one.default is one.empty and key not in arguments]
    if missing:
        raise ConfigError(f"{where} lacks the setting {missing[0]!r}, which has no default; add it.")
    checked = {key: from_plain(one, hints.get(key, Any), f"{where}.{key}") for key, one in arguments.items()}
    try:
        with memory_errors(where, "give smaller numbers"):
            return function(**checked)
    except (PushforwardError, registry.UnknownNameError, registry.PluginError):
        raise
    except Exception as error:  # torch's, of a value that only it checks
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise ConfigError(f"{where} cannot be built from its settings ({reason}); correct them.") from error


def dump_yaml(config: Mapping[str, Any]) -> str:
    """Return a configuration as YAML, with sections in insertion order."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120)


def load_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, tries to build objects, or does not hold a mapping.
    """
    try:
        loaded = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration {path}; give a run folder or a file written by pushforward.") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} holds a {type(loaded).__name__}, but a configuration must be a mapping of sections.")
    return loaded
