"""PNG images with embedded generation settings as text, which are read back without running code."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.PngImagePlugin

from pushforward._files import json_of, regular
from pushforward._images import opened
from pushforward.errors import DamagedDataError, UserError
from pushforward.formats.files import write_atomically

KEY = "pushforward"  # the text chunk that holds all settings as JSON; prompt and seed are also stored in readable form


def write_png(image: PIL.Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write an image with its settings atomically; the same image and settings give the same bytes."""
    texts = PIL.PngImagePlugin.PngInfo()
    for name in ("prompt", "seed"):
        texts.add_itxt(name, str(settings[name]))
    texts.add_itxt(KEY, json.dumps(settings, ensure_ascii=False, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG", pnginfo=texts))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings embedded in a PNG.

    Raises:
        UserError: it does not exist, is not a PNG, or has no settings.
    """
    text = getattr(loaded(path, "--from"), "text", {}).get(KEY)
    if text is None:
        raise UserError(f"--from is {path}, but it has no pushforward settings; give an unedited PNG written by `pushforward generate`.")
    try:
        settings = json_of(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise UserError(f"--from is {path}, but its settings are not a JSON mapping; give a PNG written by `pushforward generate`.")
    return settings


def loaded(path: Path, option: str) -> PIL.Image.Image:
    """Return the image in a file, with what follows its pixels.

    Raises:
        UserError: there is no such file, it is no image, or it has too many pixels.
        DamagedDataError: it is truncated or damaged.
    """
    if not regular(path, UserError).is_file():
        raise UserError(f"{option} is {path}, but there is no such file; check the path.")
    try:
        with opened(path) as image:
            image.load()
            return image
    except Exception as error:  # PIL raises many exception types for damaged files, and one for an image of too many pixels
        is_none = isinstance(error, UserError | PIL.UnidentifiedImageError | PIL.Image.DecompressionBombError)
        kind = UserError if is_none else DamagedDataError
        raise kind(f"{option} is {path}, but it cannot be read as an image ({error}).") from None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with regular(path, UserError).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
