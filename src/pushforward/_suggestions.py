"""The error message for a name that is not known, with the closest one, and arguments by their names."""

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def unknown(what: str, value: str, allowed: Iterable[str]) -> str:
    """Return the error message for a value that is not allowed, with the closest option or all of them."""
    options = sorted(allowed)
    by_last_part = {option.rpartition(".")[2].lower(): option for option in options}
    near = difflib.get_close_matches(value, options, n=1) or [
        by_last_part[key] for key in difflib.get_close_matches(value.rpartition(".")[2].lower(), by_last_part, n=1)
    ]
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(options)}."
    return f"{value!r} is not a known {what}; {hint}"


def bound_arguments(name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    """Return the arguments of a call, or raise Python's own error with the name of the function and the closest argument."""
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        wrong = next((one for one in kwargs if one not in signature.parameters), None)
        near = "" if wrong is None else unknown("argument", wrong, signature.parameters).partition("; ")[2]
        raise TypeError(f"{name}() {error}{'; ' if near else ''}{near}") from None
