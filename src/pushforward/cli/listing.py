"""`pushforward list [GROUP]`: public names and recipes with their summaries, without importing them; `list GROUP.NAME`: one of them."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pushforward import recipes, registry
from pushforward.cli.options import argument_helps, kebab, named, parse
from pushforward.cli.output import result
from pushforward.errors import UserError

RECIPES = "recipes"  # a group of its own: files, not public names


@dataclass(frozen=True)
class List:
    """List the public names, or the options of one.

    Args:
        group: models, data, samplers, paths, times, pairings, nn, bijections, ..., or recipes; by default all. With a name, such as
            samplers.ddim, its options with their defaults; recipes.NAME is a recipe's command and results.
    """

    group: Annotated[str, tyro.conf.Positional] = ""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(List, arguments, prog="pushforward list", description="List the public names.")
    options = replace(options, group=options.group.removesuffix("."))  # as completion leaves it
    groups = [*sorted({name.rpartition(".")[0] for name in registry.names()}), RECIPES]
    group, _, name = options.group.rpartition(".")
    if group == RECIPES:
        _show_recipe(recipes.recipe(name))
        return 0
    if group in groups and group:
        _show_options(group, named(group, name))
        return 0
    if options.group and options.group not in groups:
        raise UserError(registry.unknown("group", options.group, filter(None, groups)))
    console, listed = Console(soft_wrap=False), dict[str, dict[str, str]]()
    for group in [options.group] if options.group else groups:
        listed[group] = dict(_sentences(group))
        title = group if group == RECIPES else f"pushforward.{group}" if group else "pushforward"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
        for name, sentence in listed[group].items():
            table.add_row(name, escape(sentence))
        console.print(table, highlight=False)
        console.print()
    names = [name if options.group else ".".join(filter(None, (group, name))) for group in listed for name in listed[group]]
    result("\n".join(names), names=listed[options.group] if options.group else listed)
    if options.group == RECIPES:
        print(f"`pushforward list {RECIPES}.{next(iter(listed[RECIPES]))}` shows the command and the results of one.")
    elif options.group:
        example = kebab(registry.names(options.group)[0])
        print(f"`pushforward list {options.group}.{example}` explains the options of one.")
    return 0


def _sentences(group: str) -> Iterator[tuple[str, str]]:
    """Yield each name of a group with the sentence that explains it."""
    if group == RECIPES:
        yield from ((name, recipes.recipe(name).summary) for name in recipes.names())
        return
    for name in registry.names(group):
        try:
            yield name.rpartition(".")[2], registry.summary(name)
        except registry.PluginError as error:
            yield name.rpartition(".")[2], str(error)


def _show_recipe(one: recipes.Recipe) -> None:
    """Print a recipe: its command, and what was measured."""
    result(one.command, **vars(one), command_line=one.command)
    console = Console()
    console.print(one.name, style="bold", highlight=False)
    console.print(f"  {one.summary}\n", highlight=False, markup=False)
    print(one.command)
    print(f"{one.measure}\n")
    table = Table(box=None, show_header=False)
    rows = {"training took": one.time, **one.results, "source": one.source}
    for name, value in (rows if one.needs is None else {**rows, "needs": f"the run of the recipe {one.needs}"}).items():
        table.add_row(name, value)
    console.print(table, highlight=False)
    print(f"\npushforward train --recipe {one.name}    trains it into {one.out}; further options replace the recipe's")


def _show_options(group: str, thing: Any) -> None:
    """Print what a public object is, and its options: their names, defaults and explanations."""
    rows = list(options_of(thing))
    result(
        "\n".join(name for name, _, _ in rows), name=f"pushforward.{thing.public_name}", summary=registry.first_sentence(thing),
        options=[{"name": name, "default": default, "help": explanation} for name, default, explanation in rows],
    )  # fmt: skip
    console = Console(soft_wrap=False)
    console.print(f"pushforward.{thing.public_name}", style="bold", highlight=False)
    console.print(f"  {registry.first_sentence(thing)}\n", highlight=False, markup=False)
    table = Table(box=None, show_header=False)
    for name, default, explanation in rows:
        table.add_row(name, default, escape(explanation))
    console.print(table, highlight=False)
    if group == "samplers" and any(name == "grid" for name, _, _ in rows):
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
