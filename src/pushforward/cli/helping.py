"""Help of a command on one screen, from its records: the most used options and examples; --help-all is tyro's, with all components."""

import dataclasses
import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pushforward.cli import output
from pushforward.cli.help_texts import EXAMPLES, SHOWN

HELPS = ("-h", "--help", "--help-all")
SCREEN = 40  # lines of a help
INDENT, WIDEST = 26, 100  # columns before an explanation, and of a line
OF_A_MODEL = 5  # options of a preset itself that are shown
KINDS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "BOOL"}


@dataclass(frozen=True)
class Option:
    """An option as help shows it.

    Args:
        name: as it is typed, without dashes: batch-size, net.channels, or RUN of an argument that is no option.
        values: what follows it, such as INT.
        help: its explanation.
        default: its default, or an empty string.
        section: the field of the record that has it, such as `training`, or the component, such as net:unet.
        names: the components to choose from; for an option that is such a choice.
    """

    name: str
    values: str
    help: str
    default: str = ""
    section: str = ""
    names: tuple[str, ...] = ()

    @property
    def is_option(self) -> bool:
        """Whether it has a name with dashes: it is no argument by place and no choice of a component."""
        return not self.names and not self.name.isupper()

    @property
    def head(self) -> str:
        """What is typed."""
        if self.names:
            return f"{self.name}:NAME"
        dashes = "-" if len(self.name) == 1 else "--"
        return f"{dashes}{self.name} {self.values}".rstrip() if self.is_option else self.name


def options_of(kind: Any, default: Any = None, section: str = "", prefix: str = "") -> Iterator[Option]:
    """Yield the options of a record, and of the records and components in it."""
    helps = _helps(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        annotation, notes = _bare(hints[field.name])
        value = getattr(default, field.name) if default is not None else _default(field)
        if dataclasses.is_dataclass(annotation):
            yield from options_of(annotation, value, field.name)
            continue
        explained = next((one.help for one in notes if getattr(one, "help", None)), None) or helps.get(field.name, "")
        text = " ".join(explained.split())
        if parts := dict(_components(annotation)):
            yield Option(field.name, "", text, "" if value is None else type(value).__name__, section, tuple(parts))
            for name, record in parts.items():
                yield from options_of(record, None, f"{field.name}:{name}", f"{field.name}.")
            continue
        metavar = next((one.metavar for one in notes if getattr(one, "metavar", None)), None)
        if any("Positional" in repr(one) for one in notes):
            yield Option(metavar or field.name.upper(), "", text, "", section)
            continue
        name = next((one.name for one in notes if getattr(one, "name", None)), field.name).replace("_", "-")
        values = metavar or ("" if annotation is bool else _values(annotation))
        yield Option(f"{prefix}{name}", values, text, _text(value), section)


def brief(kind: Any, default: Any, prog: str, description: str, arguments: Sequence[str]) -> str:
    """Return the help of a command for one screen: usage, what it does, its most used options, and examples."""
    found = list(options_of(kind, default))
    fullest = (_screen(found, prog, description, arguments, lines, of_model) for lines in (2, 1) for of_model in (OF_A_MODEL, 2, 0))
    return "\n".join(next((one for one in fullest if len(one) <= SCREEN), _screen(found, prog, description, arguments, 1, 0)))


def _screen(found: Sequence[Option], prog: str, description: str, arguments: Sequence[str], most: int, of_model: int) -> list[str]:
    """Return the lines of a help, with so many lines for an explanation and so many of a preset's own options."""
    words, width = prog.split(), _width()
    command = words[1]
    places = [one for one in found if not one.is_option and not one.names]
    usage = " ".join([*(one.name for one in places), *SHOWN.get(f"{command} usage", ()), "[OPTIONS]"])
    chosen = [one for one in found if one.section in arguments]
    shown = [*chosen] if chosen else [*places, *_most_used(command, found, of_model)]
    of_all = [Option(name.removeprefix("--"), "", text) for name, text in output.HELP.items() if name != "--debug"]
    lines = [*_wrapped(f"usage: {prog} {usage}", width, "  "), "", *_wrapped(description, width), ""]
    for one in [*shown, *([] if chosen or command in ("app",) else of_all)]:
        lines += _lines(one, width, most)
    examples = [] if chosen else [text.replace("PRESET", words[-1]) for text in EXAMPLES.get(command, ())]
    lines += ["", "examples:", *(f"  {one}" for one in examples)] if examples else []
    count = len({one.name for one in found if one.is_option}) + len(output.HELP)
    return [*lines, "", f"All {count} options: {prog} --help-all"]


def everything(kind: Any, default: Any, show: Callable[[], None]) -> None:
    """Print all options: those that `show` prints, and those of each component that can be chosen."""
    show()
    width = _width()
    by_section: dict[str, list[Option]] = {}
    for one in options_of(kind, default):
        if ":" in one.section:
            by_section.setdefault(one.section, []).append(one)
    for section, options in by_section.items():
        print(f"\noptions of {section}:")
        for one in options:
            print("\n".join(_lines(one, width)))
    print("\nof every command:")
    for name, text in output.HELP.items():
        print("\n".join(_lines(Option(name.removeprefix("--"), "", text), width)))


def _most_used(command: str, found: Sequence[Option], of_model: int) -> list[Option]:
    """Return the options of a command that its help shows first: those that are listed, else all; and a few of a preset's own."""
    own = [one for one in found if ":" not in one.section and (one.is_option or one.names)]
    if command not in SHOWN:
        return own
    by_name = {one.name: one for one in own if one.section != "model"}
    listed = [by_name[name] for name in SHOWN[command] if name in by_name]
    of_preset = [one for one in own if one.section == "model" and one.is_option]
    return [*listed, *of_preset[:of_model], *(one for one in own if one.names)]


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDEST)


def _lines(one: Option, width: int, most: int | None = None) -> list[str]:
    """Return an option with its explanation, of which the first clause suffices if it may have so many lines."""
    default = f" ({one.default})" if one.default else ""
    if one.names:
        text, default = f"{', '.join(one.names)}; options --{one.name}.*", ""
    else:
        text = one.help.partition("; ")[0].partition(". ")[0].rstrip(".,: ") if most is not None else one.help
    if most is not None:
        text = textwrap.shorten(text, max(most * (width - INDENT) - len(default) - 6 * (most - 1), 20), placeholder=" ...")
    wrapped = _wrapped(f"{text}{default}", width - INDENT)
    head = f"  {one.head}"
    if len(head) >= INDENT - 1:
        return [head, *(" " * INDENT + line for line in wrapped)]
    return [f"{head:<{INDENT}}{wrapped[0]}", *(" " * INDENT + line for line in wrapped[1:])]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent=indent, break_on_hyphens=False) or [""]


def _helps(kind: Any) -> dict[str, str]:
    from pushforward.cli.options import argument_helps  # which imports this module

    helps: dict[str, str] = {}
    for one in reversed(inspect.getmro(kind)):
        helps |= argument_helps(one)
    return helps


def _bare(annotation: Any) -> tuple[Any, list[Any]]:
    """Return a type without its notes, and the notes of all levels."""
    notes: list[Any] = []
    while typing.get_origin(annotation) is Annotated:
        annotation, *more = typing.get_args(annotation)
        notes += more
    return annotation, notes


def _components(annotation: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and record of each component of a choice (`options.choice`)."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return
    for one in typing.get_args(annotation):
        record, notes = _bare(one)
        if notes and dataclasses.is_dataclass(record):
            yield next(note.name for note in notes if getattr(note, "name", None)), record
        else:
            yield from _components(record)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _text(value: Any) -> str:
    """Return a default as it is typed; an empty string for none, for an empty one, and for a switch that is off."""
    if value is None or value is False or value in ("", (), {}):
        return ""
    if value is True:
        return "on"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _values(annotation: Any) -> str:
    """Return what follows an option of a type."""
    annotation = _bare(annotation)[0]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "|".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return "|".join(dict.fromkeys(_values(one) for one in inner if one is not type(None)))
    if origin is dict:
        return "PAIRS"
    if origin is tuple:
        return f"{_values(inner[0])} ..." if inner[-1] is Ellipsis else " ".join(map(_values, inner))
    return KINDS.get(annotation, "VALUE")
