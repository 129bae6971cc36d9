"""Guidance as the commands describe it: a scale, or a name with its scale and other options."""

from collections.abc import Sequence
from typing import Any

from pushforward import registry
from pushforward._checks import real
from pushforward.cli.options import kebab, named
from pushforward.cli.records import fields_of, values_of
from pushforward.errors import UserError
from pushforward.guidance.cfg import CFG
from pushforward.guidance.extrapolation import FromNegative

PER_SAMPLE = ("negative", "times")  # what a command has no way to state


def guidance_of(words: Sequence[str]) -> Any:
    """Return the guidance that the words of --guidance state, [NAME] SCALE [OPTION VALUE ...], or None without words.

    Raises:
        UserError: a name is unknown, a number is none or out of range, or the guidance needs more than numbers.
    """
    if not words:
        return None
    kind: Any
    first, *rest = words
    if _is_number(first):
        kind, scale, others = CFG, first, rest
    else:
        kind, (scale, *others) = _kind(first), rest or [""]
    if not _is_number(scale):
        raise UserError(f"--guidance is {' '.join(words)!r}, but after the name comes its scale, such as `{first} 3`.")
    size = real("--guidance", float(scale), hint="3 is usual, and 1 is no guidance")
    options = {name: hint for name, hint in fields_of(kind).items() if name not in ("scale", *PER_SAMPLE)}
    if len(others) % 2:
        raise UserError(f"--guidance is {' '.join(words)!r}, but options are pairs of a name and a value; {', '.join(options)} are known.")
    pairs = zip(others[::2], others[1::2], strict=True)
    return kind(scale=size, **values_of(options, pairs, f"option of {kebab(kind.public_name)}"))


def _kind(name: str) -> Any:
    kind = named("guidance", name)
    if not _states_all(kind):
        usable = ", ".join(kebab(one.name) for one in registry.entries("guidance") if _states_all(one.thing))
        raise UserError(f"--guidance is {name!r}, which needs more than numbers; use {usable}, or Python for this one.")
    return kind


def _states_all(thing: Any) -> bool:
    """Return whether numbers alone make this guidance."""
    return isinstance(thing, type) and issubclass(thing, FromNegative)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
