"""Pictures of pages: each has alternative text, what moves stands still where less motion is asked for, wide plots scroll on phones."""

import re
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "docs" / "assets"
IMAGE = re.compile(r"<img\b[^>]*>")
DESCRIBED = re.compile(r'\balt="[^"]')
PLOT = re.compile(r'\bsrc="[^"]*?assets/([^"]+\.svg)"')
SIZE = re.compile(r'\bviewBox="0 0 ([\d.]+) ([\d.]+)"')
WIDE = 2.2  # width by height of a plot, and points of width, from which its texts cannot be read at the width of a phone
POINTS = 600
MOVING = re.compile(r'\bsrc="([^"]*?assets/([^"]+))\.webp"')


class PictureError(Exception):
    """A picture without alternative text."""


def checked(content: str, assets: Path = ASSETS) -> str:
    """Return the HTML of a page whose moving pictures, name.webp, are name.png where motion is to be reduced.

    On a narrow screen they are name_narrow.webp and name_narrow.png, if these exist. Wide plots are in a box that may scroll.

    Raises:
        PictureError: a picture has no alternative text.
    """
    if missing := next((image for image in IMAGE.findall(content) if not DESCRIBED.search(image)), None):
        raise PictureError(f"{missing} has no alternative text; describe it between the brackets of ![].")
    return IMAGE.sub(lambda image: _sources(image[0], assets), content)


def _sources(image: str, assets: Path) -> str:
    moving = MOVING.search(image)
    if moving is None:
        return f'<span class="wide-plot">{image}</span>' if _wide(image, assets) else image
    still, narrow, name = "(prefers-reduced-motion: reduce)", "(max-width: 44.9em)", moving[1]
    wanted = [(still, f"{name}.png")]
    if (assets / f"{moving[2]}_narrow.webp").exists():
        wanted = [(f"{narrow} and {still}", f"{name}_narrow.png"), (narrow, f"{name}_narrow.webp"), *wanted]
    sources = "".join(f'<source media="{media}" srcset="{file}">' for media, file in wanted)
    return f"<picture>{sources}{image}</picture>"


def _wide(image: str, assets: Path) -> bool:
    plot = PLOT.search(image)
    if plot is None or not (assets / plot[1]).exists():
        return False
    size = SIZE.search((assets / plot[1]).read_text(encoding="utf-8"))
    return size is not None and float(size[1]) >= max(POINTS, WIDE * float(size[2]))
