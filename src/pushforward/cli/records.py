"""Records whose fields a command states as pairs of a name and a text."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pushforward import registry
from pushforward._text import value_of
from pushforward.errors import UserError


def fields_of(kind: type) -> dict[str, Any]:
    """Return the fields of a record with their annotations; none of what is no record."""
    hints = typing.get_type_hints(kind)
    return {one.name: hints[one.name] for one in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}


def values_of(options: Mapping[str, Any], texts: Iterable[tuple[str, str]], what: str, prefix: str = "") -> dict[str, Any]:
    """Return the values of options that pairs of a name and a text state.

    Args:
        options: the annotation of each option.
        texts: the pairs; names in either spelling.
        what: what an unknown name is not, for the error.
        prefix: what stands before a name on the command line.

    Raises:
        UserError: a name is unknown, with the nearest one, or a text is not of the option's type.
    """
    values = {}
    for name, text in texts:
        option = name.replace("-", "_")
        if option not in options:
            raise UserError(registry.unknown(what, name, options))
        values[option] = value_of(f"{prefix}{name}", text, options[option])
    return values
