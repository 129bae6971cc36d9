"""Self-contained HTML pages: the templates of this folder, with pictures inside."""

import base64
import math
from pathlib import Path
from typing import Any

import jinja2

from pushforward.evaluation.units import fixed

PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("pushforward", "evaluation"),
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
PAGES.globals["fixed"] = lambda value, form: fixed(float(value), form)


def rendered(template: str, **values: Any) -> str:
    """Return a page of one of the templates."""
    return PAGES.get_template(template).render(**values)


def embedded(picture: Path) -> str:
    """Return a PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def share_error(share: float, count: int) -> float:
    """Return the standard error sqrt(p (1 - p) / n) of a share of so many."""
    return math.sqrt(max(share * (1 - share), 0.0) / max(count, 1))


def ratio_error(above: float, above_error: float, below: float, below_error: float) -> float:
    """Return the standard error of a ratio of independent numbers, to first order."""
    if not above or not below:
        return 0.0
    return abs(above / below) * math.hypot(above_error / above, below_error / below)
