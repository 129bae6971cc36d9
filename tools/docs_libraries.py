"""The comparison with other libraries on the front page: some rows of the table of its own page, so that both agree."""

import re
from pathlib import Path

MARK = re.compile(r"<!-- libraries: (.+?) -->", re.DOTALL)


class LibrariesError(Exception):
    """The front page asks for a row that the table does not have."""


def compact(markdown: str, page: Path) -> str:
    """Return a page whose mark is replaced by rows of the table, and by the sentence that dates it.

    Args:
        markdown: the text with the mark, which names rows by their first cells, separated by semicolons.
        page: the file with the table, in the same language; its first paragraph states date, versions and signs.

    Raises:
        LibrariesError: no row begins with one of the names.
    """

    def table(mark: re.Match[str]) -> str:
        text = page.read_text(encoding="utf-8")
        lines = text.splitlines()
        head = next(number for number, line in enumerate(lines) if line.startswith("|"))
        rows = {line.split("|")[1].strip(): line for line in lines[head + 2 :] if line.startswith("|")}
        names = [name.strip() for name in mark[1].split(";")]
        if missing := [name for name in names if name not in rows]:
            raise LibrariesError(f"{page.name} has no row {missing[0]!r}; its rows are {', '.join(map(repr, rows))}.")
        stated = " ".join(line for line in lines[1:head] if line.strip() and not line.startswith("<"))
        shown = "\n".join([lines[head], lines[head + 1], *(rows[name] for name in names)])
        return f'<div class="peers" markdown>\n\n{shown}\n\n</div>\n\n<div class="stated" markdown>\n\n{stated}\n\n</div>'

    return MARK.sub(table, markdown)
