"""Pictures of pages: each has alternative text, and what moves stands still for readers who ask their system for less motion."""

import re
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "docs" / "assets"
IMAGE = re.compile(r"<img\b[^>]*>")
DESCRIBED = re.compile(r'\balt="[^"]')
MOVING = re.compile(r'\bsrc="([^"]*?assets/([^"]+))\.webp"')


class PictureError(Exception):
    """A picture without alternative text."""


def checked(content: str, assets: Path = ASSETS) -> str:
    """Return the HTML of a page whose moving pictures, name.webp, are name.png where motion is to be reduced.

    On a narrow screen they are name_narrow.webp and name_narrow.png, if these exist.

    Raises:
        PictureError: a picture has no alternative text.
    """
    if missing := next((image for image in IMAGE.findall(content) if not DESCRIBED.search(image)), None):
        raise PictureError(f"{missing} has no alternative text; describe it between the brackets of ![].")
    return IMAGE.sub(lambda image: _sources(image[0], assets), content)


def _sources(image: str, assets: Path) -> str:
    moving = MOVING.search(image)
    if moving is None:
        return image
    still, narrow, name = "(prefers-reduced-motion: reduce)", "(max-width: 44.9em)", moving[1]
    wanted = [(still, f"{name}.png")]
    if (assets / f"{moving[2]}_narrow.webp").exists():
        wanted = [(f"{narrow} and {still}", f"{name}_narrow.png"), (narrow, f"{name}_narrow.webp"), *wanted]
    sources = "".join(f'<source media="{media}" srcset="{file}">' for media, file in wanted)
    return f"<picture>{sources}{image}</picture>"
