"""The error message for a name that is not known, with the closest one."""

import difflib
from collections.abc import Iterable


def unknown(what: str, value: str, allowed: Iterable[str]) -> str:
    """Return the error message for a value that is not allowed, with the closest option or all of them."""
    options = sorted(allowed)
    by_last_part = {option.rpartition(".")[2].lower(): option for option in options}
    near = difflib.get_close_matches(value, options, n=1) or [
        by_last_part[key] for key in difflib.get_close_matches(value.rpartition(".")[2].lower(), by_last_part, n=1)
    ]
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(options)}."
    return f"{value!r} is not a known {what}; {hint}"
