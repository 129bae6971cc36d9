"""What emoji are called: Unicode's names, or the labels and tags of a file in the format of emojibase-data."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pushforward._files import json_of, text_of
from pushforward.errors import DataError, UserError

PICTURES = ("So", "Sk", "Sm", "Po", "Pd")  # categories of code points that emoji fonts draw, apart from ASCII


@dataclass(frozen=True)
class Emoji:
    """An emoji: its code points, its name, its caption, and the group of those that differ in the colour of skin only."""

    text: str
    name: str
    caption: str
    group: int


def unicode_emoji(code_points: Iterable[int]) -> tuple[list[Emoji], list[str]]:
    """Return the emoji among the code points of a font by Unicode's names, in lower case, and those that this Python has no name for."""
    found, nameless = [], []
    for code in sorted(code_points):
        letter = chr(code)
        if code < 128 or unicodedata.category(letter) not in (*PICTURES, "Cn"):
            continue
        name = unicodedata.name(letter, "").lower()
        if name:
            found.append(Emoji(letter, name, name, code))
        else:
            nameless.append(f"U+{code:04X}")
    return found, nameless


def labelled_emoji(path: Path, language: str, tags: bool, skins: bool) -> list[Emoji]:
    """Return the emoji that a file lists, with those of other skin colours if they are wanted.

    Args:
        path: a .json file, a list of records with hexcode, label, and optionally tags and skins; or the folder of emojibase-data.
        language: the language whose file is read from a folder.
        tags: whether captions continue with the tags.
        skins: whether to list those of other skin colours.

    Raises:
        DataError: there is no such file, or it has another form.
        UserError: the folder does not have the language.
    """
    file = _file(path, language)
    try:
        records = json_of(text_of(file, DataError))
        listed = [
            _emoji(one, record, tags, group)
            for group, record in enumerate(records)
            for one in (record, *(record.get("skins", ()) if skins else ()))
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{file} cannot be read as labels of emoji ({type(error).__name__}: {error}); it must be a list of records with hexcode and "
            "label, such as en/data.json of the npm package emojibase-data."
        ) from None
    return listed


def _emoji(one: dict[str, Any], record: dict[str, Any], tags: bool, group: int) -> Emoji:
    text = "".join(chr(int(code, 16)) for code in one["hexcode"].split("-"))
    label = str(one["label"]).strip()
    words = [str(tag) for tag in record.get("tags", ())] if tags else []
    return Emoji(text, label, ", ".join([label, *words]), group)


def _file(path: Path, language: str) -> Path:
    if path.is_file():
        return path
    known = sorted(one.parent.name for one in path.glob("*/data.json")) if path.is_dir() else []
    if not known:
        raise DataError(
            f"labels is {path}, but there is no such file; give a data.json of emojibase-data: npm pack emojibase-data, then unpack it."
        )
    if language not in known:
        raise UserError(f"language is {language!r}, but {path} has {', '.join(known)}; give one of them.")
    return path / language / "data.json"
