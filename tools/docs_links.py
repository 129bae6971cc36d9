"""Links from a page to the other language: relative, so that the site can be served from any folder, and none that needs its address."""

import re
from pathlib import Path
from typing import Any

from mkdocs.utils import get_relative_url

# Material's script asks for a sitemap at each of their addresses, to find the translations that the links of the menu name already.
ALTERNATES = re.compile(r'\s*<link rel="alternate" [^>]*hreflang="[^"]*">')
MENU = re.compile(r'href="/([^"]*)" hreflang="(\w+)"')


def without_address(config: Any) -> None:
    """Remove the sitemap, whose entries are whole addresses, where `site_url` states none."""
    for name in () if config.site_url else ("sitemap.xml", "sitemap.xml.gz"):
        (Path(config.site_dir) / name).unlink(missing_ok=True)


def to_languages(output: str, url: str) -> str:
    """Return a page at this address of the site, whose menu of languages has relative links."""
    return MENU.sub(lambda link: f'href="{get_relative_url(link[1], url)}" hreflang="{link[2]}"', ALTERNATES.sub("", output))


def to_front_pages(output: str, default: str = "en") -> str:
    """Return the page of what is not found, whose menu leads to the front pages: it stands for any address, and has no translation."""
    fronts = {default: "/"}
    return MENU.sub(lambda link: f'href="{fronts.get(link[2], f"/{link[2]}/")}" hreflang="{link[2]}"', ALTERNATES.sub("", output))
