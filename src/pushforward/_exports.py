"""What `@export` checks: that a name can be imported, and that what is stated about it can be used."""

import importlib.util
import keyword
import re
import types
from typing import Any

from pushforward._names import NAMES
from pushforward._suggestions import unknown

NAME = re.compile(r"([a-z][a-z0-9_]*\.)*[A-Za-z][A-Za-z0-9_]*")
EXACTNESS = ("exact", "solved", "one-way")
FACTS = ("exactness", "loader", "order")


class ExportError(ValueError):
    """An `@export` that cannot work: its name, aliases, example or facts, or what it decorates."""

    exit_status = 1


def check_form(name: Any) -> None:
    """Raise an error if a name is not of the form of public names."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or any(map(keyword.iskeyword, name.split("."))):
        raise ExportError(
            f"{name!r} is no public name; it must be an import path in lower case without the package, and then the object's name, such as "
            "'models.my_flow'."
        )


def check_export(name: Any, example: Any, facts: dict[str, Any]) -> None:
    """Raise an error if a name cannot be imported as pushforward.name, or what is stated about it is not allowed."""
    check_form(name)
    group = name.rpartition(".")[0]
    known = {"", *(one.rpartition(".")[0] for one in NAMES)}
    if group not in known and not _is_module(group):
        hint = unknown("group of public names", group, known - {""})
        raise ExportError(f"the public name {name!r} cannot be imported: {hint}")
    _check_facts(name, example, facts)


def _is_module(group: str) -> bool:
    """Return whether there is a package or module for a group, which is new if the generated table does not have it."""
    try:
        return importlib.util.find_spec(f"pushforward.{group}") is not None
    except ModuleNotFoundError:
        return False


def _check_facts(name: str, example: Any, facts: dict[str, Any]) -> None:
    if example is not None and not callable(example):
        raise ExportError(f"the example of {name!r} is {example!r}, but it must be a function that makes one, such as a lambda.")
    for fact in facts:
        if fact not in FACTS:
            raise ExportError(f"{name!r} states {fact}=: {unknown('fact', fact, (*FACTS, 'aliases', 'example'))}")
    if facts.get("exactness", "exact") not in EXACTNESS:
        raise ExportError(f"the exactness of {name!r} is {facts['exactness']!r}, but it must be one of {', '.join(map(repr, EXACTNESS))}.")


def check_thing(name: str, thing: Any) -> None:
    """Raise an error if an object has no name of its own."""
    if not isinstance(thing, type | types.FunctionType):
        raise ExportError(f"{name!r} is given to a {type(thing).__name__}, but a public name is that of a function or a class; define one.")
