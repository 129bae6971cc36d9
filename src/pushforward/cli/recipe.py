"""`pushforward train --recipe NAME [OPTIONS]`: the arguments of a recipe, under those that are given besides."""

from collections.abc import Sequence
from pathlib import Path

from pushforward.cli.helping import HELPS
from pushforward.cli.options import FIELDS
from pushforward.errors import UserError
from pushforward.recipes import Recipe, recipe

FLAG = "--recipe"


def with_recipe(given: Sequence[str]) -> list[str]:
    """Return the arguments of `pushforward train` with those of the recipe that they name, if they do; given options replace its own.

    Raises:
        UserError: there is no such recipe, another or --config is given too, or the run that it starts from has not been trained.
    """
    place = next((k for k, one in enumerate(given) if one == FLAG or one.startswith(f"{FLAG}=")), None)
    if place is None:
        return list(given)
    one, *after = given[place:]
    if one == FLAG and not after:
        raise UserError("--recipe has no name; give one of those that `pushforward list recipes` shows.")
    name, rest = (one.partition("=")[2], after) if "=" in one else (after[0], after[1:])
    own = [*given[:place], *rest]
    found = recipe(name)
    if any(_option(word) == FLAG for word in own):
        raise UserError(f"--recipe is given more than once, first as {name}; leave the others out.")
    if any(_option(word) == "--config" for word in own):
        raise UserError(f"--recipe is {name}, but --config is given too; leave one of them out.")
    merged = _merged(found, own)
    needed = f"runs/{found.needs}"
    if needed in merged and not Path(needed).is_dir() and not set(HELPS) & set(own):
        raise UserError(
            f"--recipe is {name}, which starts from the run {needed}, but there is none; train it before: "
            f"pushforward train --recipe {found.needs}."
        )
    return merged


def _merged(found: Recipe, own: Sequence[str]) -> list[str]:
    """Return a preset and its options, those of a command line in place of the recipe's."""
    preset, *words = found.train
    if own and not own[0].startswith("-") and not _field(own[0]):
        if own[0] != preset:
            raise UserError(f"--recipe is {found.name}, which trains {preset}, not {own[0]}; leave {own[0]} out.")
        own = own[1:]
    given, chosen = {_option(word) for word in own} - {""}, {_field(word) for word in own} - {""}
    kept: list[str] = []
    for group in _groups(words):
        field = _field(group[0]) or group[0].removeprefix("--").partition(".")[0]
        if _option(group[0]) not in given and field not in chosen:
            kept += group
    out = [] if "--out" in given else ["--out", found.out]
    return [preset, *kept, *out, *own]


def _groups(words: Sequence[str]) -> list[list[str]]:
    """Return words in groups: each option with its values, each choice of a component."""
    groups: list[list[str]] = []
    for word in words:
        if _field(word) or _is_option(word):
            groups.append([word])
        else:
            groups[-1].append(word)
    return groups


def _is_option(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit() and not word[1:3].startswith(".")


def _option(word: str) -> str:
    """Return the name of an option in one spelling, without its value and without the no- of a switch."""
    name = word.partition("=")[0].replace("_", "-") if _is_option(word) else ""
    return name.replace("--no-", "--", 1)


def _field(word: str) -> str:
    """Return the field of a component that a word chooses, such as net of net:unet, or an empty string."""
    field, colon, _ = word.partition(":")
    return field if colon and field in FIELDS else ""
