"""Arguments as typed records, parsed by tyro: help shows defaults; unknown names raise an error with the closest match."""

import contextlib
import dataclasses
import inspect
import io
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import tyro

from pushforward import registry
from pushforward.cli.helping import HELPS, brief, everything
from pushforward.cli.mistakes import sentence
from pushforward.errors import PushforwardError, UserError

T = TypeVar("T")
LIVE = ("perceptual",)  # arguments that are functions, which only Python can give
CONFIG = (tyro.conf.CascadeSubcommandArgs, tyro.conf.HelptextFromCommentsOff)  # help is in docstrings; reading comments is slow
FIELDS = {"net": "nn", "path": "paths", "times": "times", "pairing": "pairings", "sampler": "samplers"}  # and the group of their choices


def from_data(preset: Callable[..., Any]) -> dict[str, str | None]:
    """Return a preset's arguments that the data determines, each with the data set's name for it, or None if it follows from others.

    The number of values of quantised data is the data's `levels`; a preset whose `levels` are those of a multiscale flow calls it `values`.
    """
    names: dict[str, str | None] = dict.fromkeys(("features", "channels", "size")) | {
        "shape": "shape",
        "classes": "classes",
        "cond_features": "cond_features",
        "cond_image": "cond_image",
        "schema": "schema",
        "text": None,  # of the text encoders that encode the captions
    }
    takes = inspect.signature(preset).parameters
    names["values" if "values" in takes else "levels"] = "levels"
    return {name: of for name, of in names.items() if name in takes}


def parse(kind: Callable[..., T], arguments: Sequence[str], *, prog: str, description: str, default: Any = None) -> T:
    """Parse arguments, in any order, into the record; help raises SystemExit: one screen, or all options with --help-all.

    Raises:
        UserError: an option is unknown, missing, or has a value that it cannot have.
    """
    if "--help-all" in arguments:
        everything(kind, default, lambda: _show_all(kind, prog, description, default))
        raise SystemExit(0)
    if set(HELPS) & set(arguments):
        print(brief(kind, default, prog, description, _choices_first(arguments)))
        raise SystemExit(0)
    options = {} if default is None else {"default": default}
    given, box = _choices_first(arguments), io.StringIO()
    try:
        with contextlib.redirect_stderr(box), _unwrapped():
            return tyro.cli(
                kind,
                args=given,
                prog=prog,
                description=description,
                config=CONFIG,
                **options,
            )
    except PushforwardError as error:
        raise UserError(f"{error}") from None
    except SystemExit as stop:
        if stop.code == 2:
            raise UserError(sentence(box.getvalue(), prog, given)) from None
        raise


def _show_all(kind: Any, prog: str, description: str, default: Any) -> None:
    """Print tyro's help, which has all options except those of components that must be chosen first."""
    options = {} if default is None else {"default": default}
    with contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], prog=prog, description=description, config=CONFIG, **options)


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Let tyro write each sentence into one line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


def check_whole(options: Any, least: Mapping[str, int]) -> None:
    """Raise unless each of these options is None or an integer of at least its number.

    Raises:
        UserError: with the option as it is typed.
    """
    from pushforward._checks import whole  # imports torch, which `list` does without

    for name, number in least.items():
        if getattr(options, name) is not None:
            whole(f"--{name.replace('_', '-')}", getattr(options, name), number)


def check_positive(options: Any, *names: str) -> None:
    """Raise unless each of these options is None or a finite number above 0.

    Raises:
        UserError: with the option as it is typed.
    """
    from pushforward._checks import is_real

    for name in names:
        value = getattr(options, name)
        if value is not None and not (is_real(value) and value > 0):
            raise UserError(f"--{name.replace('_', '-')} is {value}, but it must be a positive number.")


def preset_record(preset: Callable[..., Any], defaults: Mapping[str, Any]) -> type:
    """Return a dataclass of a preset's keyword arguments, except those that the data determines and functions.

    A network becomes a choice `net:unet --net.channels 64`, and so do paths, times, pairings and samplers: every registered one that
    can be described by settings.
    """
    hints = typing.get_type_hints(preset)
    helps = argument_helps(preset)
    fields = []
    for name, parameter in inspect.signature(preset).parameters.items():
        if name in from_data(preset) or name in LIVE:
            continue
        default = defaults.get(name, parameter.default)
        annotation = _option(name, hints[name])
        fields.append((name, Annotated[annotation, tyro.conf.arg(help=helps.get(name, ""))], dataclasses.field(default=default)))
    return dataclasses.make_dataclass("Model", fields, frozen=True)


def argument_helps(thing: Callable[..., Any]) -> dict[str, str]:
    """Return the explanations of arguments in a docstring, by name."""
    import docstring_parser  # the docstring parser that tyro uses

    return {one.arg_name: (one.description or "") for one in docstring_parser.parse(thing.__doc__ or "").params}


def _option(name: str, annotation: Any) -> Any:
    if name == "net":
        return choice("nn", None) | None
    if name == "teacher":
        return str | None
    field = getattr(annotation, "__name__", "").lower()
    return choice(FIELDS[field], annotation) if field in FIELDS else annotation


def choice(group: str, kind: type | None) -> Any:
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
            if record is not entry.thing:
                record.__doc__ = _with_arguments_of(record, entry.thing)
            found.append(Annotated[record, tyro.conf.subcommand(name=kebab(entry.name))])
    union: Any = found[0]
    for one in found[1:]:
        union = union | one
    return union


def _with_arguments_of(record: type, network: Any) -> str:
    """Return the docstring of a network's configuration with the network's own explanations of its fields, which tyro shows."""
    helps, summary = argument_helps(network), (record.__doc__ or "").partition("\n\nArgs:")[0].rstrip()
    lines = [f"    {one.name}: {' '.join(helps[one.name].split())}" for one in dataclasses.fields(record) if helps.get(one.name)]
    return "\n".join([summary, "", "Args:", *lines])


def kebab(name: str) -> str:
    """Return the last part of a public name in command-line spelling: MinibatchOT is minibatch-ot, DPMSolverPP dpm-solver-pp."""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z]|[A-Z]{2})|(?<=[A-Z]{3})(?=[A-Z][a-z])", "-", name.rpartition(".")[2]).lower()


def _letters(name: str) -> str:
    return re.sub("[-_ ]", "", name).lower()


def _choices_first(arguments: Sequence[str]) -> list[str]:
    """Return arguments with choices of components, such as sampler:DPMSolverPP, first and spelt as help shows them.

    tyro knows the options of a component only after its choice.
    """
    choices, others = list[str](), list[str]()
    for one in arguments:
        field, colon, name = one.partition(":")
        known = {_letters(kebab(public)): kebab(public) for public in registry.names(FIELDS[field])} if colon and field in FIELDS else {}
        (choices if known else others).append(f"{field}:{known.get(_letters(name), name)}" if known else one)
    return [*choices, *others]


def named(group: str, name: str) -> Any:
    """Return the registered object of a group with this name, in either spelling.

    Raises:
        UserError: there is none; the message suggests the closest.
    """
    by_name = {_letters(kebab(one)): one for one in registry.names(group)}
    if _letters(name) not in by_name:
        raise UserError(registry.unknown(group.removesuffix("s"), name, list(map(kebab, by_name.values()))))
    return registry.get(by_name[_letters(name)])
