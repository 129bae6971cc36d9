"""Pictures that carry how they were made: settings as text in a PNG, read back without running anything."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.PngImagePlugin

from pushforward.errors import UserError
from pushforward.formats.files import write_atomically

KEY = "pushforward"  # the text chunk that holds all settings as JSON; prompt and seed stand beside it for people


def write_png(image: PIL.Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write an image with its settings; the file appears whole or not at all, and the same image and settings give the same bytes."""
    texts = PIL.PngImagePlugin.PngInfo()
    for name in ("prompt", "seed"):
        texts.add_itxt(name, str(settings[name]))
    texts.add_itxt(KEY, json.dumps(settings, ensure_ascii=False, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda aside: image.save(aside, format="PNG", pnginfo=texts))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings that a PNG carries.

    Raises:
        UserError: it does not exist, is no PNG, or carries none.
    """
    with opened(path, "--from") as image:
        image.load()  # texts may stand after the pixels
        text = getattr(image, "text", {}).get(KEY)
    if text is None:
        raise UserError(
            f"--from is {path}, but it carries no settings of pushforward; give a PNG that `pushforward generate` wrote, unedited."
        )
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise UserError(f"--from is {path}, but the settings in it are no JSON mapping; give a PNG that `pushforward generate` wrote.")
    return settings


def opened(path: Path, option: str) -> PIL.Image.Image:
    """Return the picture of a file, or say what is wrong with it."""
    if not path.is_file():
        raise UserError(f"{option} is {path}, but there is no such file.")
    try:
        image = PIL.Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # PIL calls a broken PNG a SyntaxError
        raise UserError(f"{option} is {path}, but it is no picture that can be read ({error}).") from None
    return image


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
