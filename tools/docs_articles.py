"""Date, tags and summary of the articles of the site: read from their front matter, shown below the title and on the front page."""

import datetime
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

LATEST = 5  # articles on the front page
MARK = "<!-- latest articles -->"
FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
TITLE = re.compile(r"^# (.+?)(?: *\{.*\})?$", re.MULTILINE)


class ArticleError(Exception):
    """A page without translation; an article without date, tags or summary, or whose translation differs."""


class Facts(NamedTuple):
    """What the front matter of an article states."""

    date: datetime.date
    tags: tuple[str, ...]
    summary: str


def facts_of(meta: Mapping[str, Any], page: str) -> Facts:
    """Return the facts of an article.

    Raises:
        ArticleError: one of them is missing or no date, list of texts, or text.
    """
    date, tags, summary = meta.get("date"), meta.get("tags"), meta.get("summary")
    if not isinstance(date, datetime.date):
        raise ArticleError(f"{page}: date is {date!r}, but the front matter of an article has a date such as 2026-11-29.")
    if not isinstance(tags, list) or not tags or not all(isinstance(tag, str) and tag for tag in tags):
        raise ArticleError(f"{page}: tags are {tags!r}, but the front matter of an article has tags such as [diffusion, samplers].")
    if not isinstance(summary, str) or not summary.strip():
        raise ArticleError(f"{page}: summary is {summary!r}, but the front matter of an article has a sentence for the front page.")
    return Facts(date, tuple(tags), summary.strip())


def read(path: Path, page: str) -> tuple[str, Facts]:
    """Return title and facts of an article's file.

    Raises:
        ArticleError: it has no front matter or no title, or as `facts_of`.
    """
    text = path.read_text(encoding="utf-8")
    front, title = FRONT.match(text), TITLE.search(text)
    meta = yaml.safe_load(front[1]) if front else None
    if title is None:
        raise ArticleError(f"{page}: there is no title, a line that begins with '# '.")
    return title[1], facts_of(meta if isinstance(meta, dict) else {}, page)


def check(docs: Path) -> None:
    """Raise unless every page exists in both languages, every article has its facts, and those of its translation agree.

    The reference is generated in English only.

    Raises:
        ArticleError: the first that does not.
    """
    for language, other in (("en", "zh"), ("zh", "en")):
        for path in sorted((docs / language).rglob("*.md")):
            name = path.relative_to(docs / language)
            if name.parts[0] != "reference" and not (docs / other / name).exists():
                raise ArticleError(f"docs/{language}/{name}: there is no docs/{other}/{name}; translate it.")
    for path in sorted((docs / "en" / "articles").glob("*.md")):
        pair = (path, docs / "zh" / "articles" / path.name)
        (_, ours), (_, theirs) = (read(one, str(one.relative_to(docs.parent))) for one in pair)
        if ours.date != theirs.date or len(ours.tags) != len(theirs.tags):
            raise ArticleError(f"docs/zh/articles/{path.name}: date and number of tags must be those of docs/en/articles/{path.name}.")


def below_title(markdown: str, facts: Facts) -> str:
    """Return an article with a line of its facts below the title."""
    return TITLE.sub(lambda match: f"{match[0]}\n\n{_line(facts)}\n", markdown, count=1)


def latest(folder: Path) -> str:
    """Return the newest articles of a folder as Markdown, the newest first; those of one day by title."""
    found = [(path.name, *read(path, path.name)) for path in folder.glob("*.md")]
    found.sort(key=lambda one: (-one[2].date.toordinal(), one[1]))
    items = [f"- [{title}](articles/{name})<br>{facts.summary}<br>{_line(facts, 'span')}" for name, title, facts in found[:LATEST]]
    return "\n".join(items)


def _line(facts: Facts, element: str = "p") -> str:
    tags = " ".join(f'<span class="tag">{html.escape(tag)}</span>' for tag in facts.tags)
    return f'<{element} class="facts"><time datetime="{facts.date}">{facts.date}</time> {tags}</{element}>'
