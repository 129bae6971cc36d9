"""Arguments as typed records, parsed by tyro: help shows defaults; unknown names raise an error with the closest match."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import tyro

from pushforward import registry
from pushforward.errors import PushforwardError, UserError

T = TypeVar("T")


def from_data(preset: Callable[..., Any]) -> dict[str, str | None]:
    """Return a preset's arguments that the data determines, each with the data set's name for it, or None if it follows from others.

    The number of values of quantised data is the data's `levels`; a preset whose `levels` are those of a multiscale flow calls it `values`.
    """
    names: dict[str, str | None] = dict.fromkeys(("features", "cond_features", "channels", "size")) | {
        "shape": "shape",
        "classes": "classes",
        "schema": "schema",
    }
    takes = inspect.signature(preset).parameters
    names["values" if "values" in takes else "levels"] = "levels"
    return {name: of for name, of in names.items() if name in takes}


def parse(kind: Callable[..., T], arguments: Sequence[str], *, prog: str, description: str, default: Any = None) -> T:
    """Parse arguments into the record; help and usage errors raise SystemExit with 0 and 2."""
    options = {} if default is None else {"default": default}
    try:
        return tyro.cli(kind, args=list(arguments), prog=prog, description=description, **options)
    except PushforwardError as error:
        raise UserError(f"{error}") from None


def preset_record(preset: Callable[..., Any], defaults: Mapping[str, Any]) -> type:
    """Return a dataclass of a preset's keyword arguments, except those that the data determines.

    A network becomes a choice `net:unet --net.channels 64`, and so do paths, times, pairings and samplers: every registered one that
    can be described by settings.
    """
    hints = typing.get_type_hints(preset)
    helps = _argument_helps(preset)
    fields = []
    for name, parameter in inspect.signature(preset).parameters.items():
        if name in from_data(preset):
            continue
        default = defaults.get(name, parameter.default)
        annotation = _option(name, hints[name])
        fields.append((name, Annotated[annotation, tyro.conf.arg(help=helps.get(name, ""))], dataclasses.field(default=default)))
    return dataclasses.make_dataclass("Model", fields, frozen=True)


def _argument_helps(thing: Callable[..., Any]) -> dict[str, str]:
    import docstring_parser  # the docstring parser that tyro uses

    return {one.arg_name: (one.description or "") for one in docstring_parser.parse(thing.__doc__ or "").params}


def _option(name: str, annotation: Any) -> Any:
    if name == "net":
        return _choice("nn", None) | None
    group = {"Path": "paths", "Times": "times", "Pairing": "pairings", "Sampler": "samplers"}.get(getattr(annotation, "__name__", ""))
    return annotation if group is None else _choice(group, annotation)


def _choice(group: str, kind: type | None) -> Any:
    """Return the union of a group's settings records, each as a subcommand."""
    found = []
    for entry in registry.entries(group):
        record = entry.thing if kind is not None else getattr(entry.thing, "Config", None)
        if (
            record is not None
            and inspect.isclass(record)
            and dataclasses.is_dataclass(record)
            and (kind is None or issubclass(record, kind))
        ):
            found.append(Annotated[record, tyro.conf.subcommand(name=kebab(entry.name))])
    union: Any = found[0]
    for one in found[1:]:
        union = union | one
    return union


def kebab(name: str) -> str:
    """Return the last part of a public name in command-line spelling: LogitNormal is logit-normal, MinibatchOT is minibatch-ot."""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z]|[A-Z]{2})", "-", name.rpartition(".")[2]).lower()


def named(group: str, name: str) -> Any:
    """Return the registered object of a group with this name, in either spelling.

    Raises:
        UserError: there is none; the message suggests the closest.
    """
    by_name = {kebab(one): one for one in registry.names(group)}
    if name.lower() not in by_name:
        raise UserError(registry.unknown(group.removesuffix("s"), name, by_name))
    return registry.get(by_name[name.lower()])
