"""Texts of a command line as the values that an annotation allows."""

import contextlib
import csv
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pushforward._checks import alternatives
from pushforward.errors import UserError

TRUTHS = {"true": True, "True": True, "yes": True, "false": False, "False": False, "no": False}
LISTS = (list, tuple, Sequence)


def value_of(name: str, text: str, annotation: Any) -> Any:
    """Return the value that a text states for an annotation.

    It stays what it is where text is allowed and nothing else fits; elsewhere it is a number, true or false, or a list `[a, b]`, in
    which a text with a comma is quoted, `["a, b", c]`; null is None.

    Raises:
        UserError: the text is not of any type of the annotation; the message calls the option by its name.
    """
    kinds = alternatives(annotation)
    plain = {typing.get_origin(kind) or kind for kind in kinds}
    if type(None) in plain and text == "null":
        return None
    lists = [kind for kind in kinds if (typing.get_origin(kind) or kind) in LISTS]
    if lists and text.startswith("["):
        inner = (typing.get_args(lists[0]) or (Any,))[0]
        parts = next(csv.reader([text.removeprefix("[").removesuffix("]")], skipinitialspace=True), [])
        return [value_of(name, one.strip(), inner) for one in parts if one.strip()]
    for kind, convert in ((int, _integer), (float, _number), (bool, TRUTHS.__getitem__)):
        if kind in plain:
            with contextlib.suppress(ValueError, KeyError):
                return convert(text)
    if plain & {str, Path, Sequence, Any, typing.Literal}:
        return text
    named = " or ".join(sorted(kind.__name__ for kind in plain if kind is not type(None)))
    raise UserError(f"the option {name} is {text!r}, but it must be {named}.")


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):  # int also reads 1_0, which may be the name of a column
        raise ValueError
    return int(text)


def _number(text: str) -> float:
    if "_" in text:
        raise ValueError
    return float(text)
