"""`pushforward list [GROUP]`: the public names with their summaries, without importing them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from pushforward import registry
from pushforward.cli.options import parse
from pushforward.errors import UserError


@dataclass(frozen=True)
class List:
    """List the public names.

    Args:
        group: models, data, samplers, paths, times, pairings, nn, bijections, ...; by default all.
    """

    group: Annotated[str, tyro.conf.Positional] = ""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(List, arguments, prog="pushforward list", description="List the public names.")
    groups = sorted({name.rpartition(".")[0] for name in registry.names()})
    if options.group and options.group not in groups:
        raise UserError(registry.unknown("group", options.group, groups))
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
    return 0
