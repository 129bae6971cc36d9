"""The English of code and docs keeps to the vocabulary of CONTRIBUTING.md: the table there is the list of words searched for here."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pushforward"

# Words that are right where they stand, by file.
ALLOWED = {
    "src/pushforward/evaluation/judge.py": {"say"},  # a public parameter of `judge`
    "src/pushforward/cli/evaluate.py": {"say"},  # passed to it
    # The page that introduces the word, and the links to its file.
    "docs/en/articles/twins.md": {"twins"},
    "docs/en/articles/naming.md": {"twins"},
    "docs/en/index.md": {"twins"},
}

HEADING, TABLE = "## Vocabulary", re.compile(r"^\|.*\|$", re.MULTILINE)


def section(text, heading):
    """Return the part of a Markdown text from a heading to the next of its level."""
    start = text.index(heading)
    end = text.find("\n" + heading.partition(" ")[0] + " ", start + 1)
    return text[start : end if end >= 0 else len(text)]


def vocabulary():
    """Return the words in code font of the table's second column."""
    rows = TABLE.findall(section((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), HEADING))[2:]
    return sorted({word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[2])})


def pattern(words):
    """Return a pattern for whole words, also as parts of identifiers, with phrases that may be broken over lines."""
    phrases = "|".join(r"[\s#>]+".join(map(re.escape, word.split())) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<![A-Za-z])(?:{phrases})(?![A-Za-z])", re.IGNORECASE)


def subjects():
    """Return the files that are searched."""
    sources = list(PACKAGE.rglob("*.py"))
    folders = [
        *(
            path for path in (ROOT / "docs" / "en").rglob("*.md") if path.parent.name != "reference"
        ),  # made from docstrings, which are searched
        *(path for name in ("docs/code", "tools", "benchmarks", "examples") for path in (ROOT / name).glob("*.py")),
    ]
    pages = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/RESULTS.md", "Makefile"]
    return sorted(sources + folders + [ROOT / name for name in pages])


def prose(path):
    """Return the text of a file that is searched: without tables that are data, without releases that are history."""
    text = path.read_text(encoding="utf-8")
    if path.name == "CHANGELOG.md":
        text = section(text, "## [Unreleased]")
    if path.name in ("CONTRIBUTING.md", "RESULTS.md"):
        text = TABLE.sub("", text)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # CamelCase into words


def found(text, words, allowed=()):
    """Return 'line: word' for each word of the vocabulary in a text."""
    return [
        f"{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for match in pattern(words).finditer(text)
        if match.group().lower() not in allowed
    ]


def test_the_table_is_read():
    words = vocabulary()
    assert {"say", "heard", "united", "at once"} <= set(words)
    assert len(words) >= 40
    assert found("what_was_said and\n# at\n# once, HEARD; essays", words) == ["1: said", "2: at\n# once", "3: HEARD"]


def test_what_is_allowed_is_needed():
    words = vocabulary()
    for name, allowed in ALLOWED.items():
        assert set(allowed) <= {match.lower() for match in pattern(words).findall(prose(ROOT / name))}, (
            f"{name} no longer needs its exception"
        )


@pytest.mark.parametrize("path", subjects(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_to_the_vocabulary(path):
    words = found(prose(path), vocabulary(), ALLOWED.get(str(path.relative_to(ROOT)), ()))
    assert not words, f"{path.relative_to(ROOT)} has words that the table in CONTRIBUTING.md replaces, at lines {'; '.join(words)}"
