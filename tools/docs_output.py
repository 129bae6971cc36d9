"""Printed output that pages include: in a code block, or tables in Markdown, whose numbers keep their signs."""

import re
from pathlib import Path

CELL = re.compile(r"(?<=<td>)[^<]*|(?<=<td style=\"text-align: right;\">)[^<]*")


class OutputError(Exception):
    """Output that Markdown would run into a paragraph."""


def check(text: str, results: Path) -> None:
    """Refuse a page that includes output outside a code block, unless it is tables in Markdown and single lines between them.

    Args:
        text: of the page.
        results: the folder of outputs.

    Raises:
        OutputError: with the line of the include and the first line of output that Markdown would join to its neighbour.
    """
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        if marker := re.match(r"\s*(`{3,}|~{3,})", line):
            fence = "" if fence and marker[1].startswith(fence) else fence or marker[1]
        include = re.match(r'\s*--8<-- "([\w/]+/output\.txt)(?::(\d+):(\d+))?"', line)
        if include and not fence:
            lines = (results / include[1]).read_text(encoding="utf-8").splitlines()
            shown = lines[int(include[2]) - 1 : int(include[3])] if include[2] else lines
            around = zip(["", *shown], shown, [*shown[1:], ""], strict=False)
            if joined := [one for before, one, after in around if not one.startswith("|") and one.strip() and (before + after).strip()]:
                raise OutputError(f"line {number}: the output {joined[0]!r} is outside a code block; put the include into ```text.")


def unbroken(content: str) -> str:
    """Return the HTML of a page in whose tables no line ends between a number and its %."""
    return CELL.sub(lambda cell: cell[0].replace(" %", "&nbsp;%"), content)
