"""`pushforward list [GROUP]`: the public names with their summaries, without importing them; `list GROUP.NAME`: the options of one."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pushforward import registry
from pushforward.cli.options import argument_helps, kebab, named, parse
from pushforward.errors import UserError


@dataclass(frozen=True)
class List:
    """List the public names, or the options of one.

    Args:
        group: models, data, samplers, paths, times, pairings, nn, bijections, ...; by default all. With a name, such as samplers.ddim, its
            options with their defaults.
    """

    group: Annotated[str, tyro.conf.Positional] = ""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(List, arguments, prog="pushforward list", description="List the public names.")
    groups = sorted({name.rpartition(".")[0] for name in registry.names()})
    group, _, name = options.group.rpartition(".")
    if group in groups and group:
        _show_options(group, named(group, name))
        return 0
    if options.group and options.group not in groups:
        raise UserError(registry.unknown("group", options.group, filter(None, groups)))
    console = Console(soft_wrap=False)
    for group in [options.group] if options.group else groups:
        table = Table(
            title=f"pushforward.{group}" if group else "pushforward", title_justify="left", title_style="bold", box=None, show_header=False
        )
        for name in registry.names(group):
            try:
                sentence = registry.summary(name)
            except registry.PluginError as error:
                sentence = str(error)
            table.add_row(name.rpartition(".")[2], sentence)
        console.print(table, highlight=False)
        console.print()
    if options.group:
        example = kebab(registry.names(options.group)[0])
        print(f"`pushforward list {options.group}.{example}` explains the options of one.")
    return 0


def _show_options(group: str, thing: Any) -> None:
    """Print what a public object is, and its options: their names, defaults and explanations."""
    console = Console(soft_wrap=False)
    console.print(f"pushforward.{thing.public_name}", style="bold", highlight=False)
    console.print(f"  {registry.first_sentence(thing)}\n", highlight=False, markup=False)
    table = Table(box=None, show_header=False)
    for name, default, explanation in options_of(thing):
        table.add_row(name, default, escape(explanation))
    console.print(table, highlight=False)
    if group == "samplers" and any(name == "grid" for name, _, _ in options_of(thing)):
        print("\n--sampler-options NAME VALUE ... sets them; `grid karras grid.rho 5` is another grid with its option.")


def options_of(thing: Any) -> Iterator[tuple[str, str, str]]:
    """Yield name, default and explanation of each argument; those of a network's configuration are explained by the network."""
    kind = getattr(thing, "Config", thing)
    helps: dict[str, str] = {}
    for one in (*reversed(inspect.getmro(kind) if inspect.isclass(kind) else (kind,)), thing):
        helps |= argument_helps(one)
    for parameter in inspect.signature(kind).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if repr(default) == "<factory>":
            default = next(field.default_factory() for field in kind.__dataclass_fields__.values() if field.name == parameter.name)
        shown = "(required)" if default is parameter.empty else str(default)
        yield parameter.name, shown, " ".join(helps.get(parameter.name, "").split())
