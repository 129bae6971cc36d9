"""One sentence for each mistake on the command line, in place of the boxes that tyro prints."""

import re

from pushforward.registry import unknown

KINDS = {"INT": "an integer", "FLOAT": "a number", "BOOL": "True or False", "PATH": "a path"}


def sentence(box: str, prog: str) -> str:
    """Return the message of a box of tyro's, as one sentence.

    Args:
        box: the printed box; its parts are divided by lines, the first one states the mistake.
        prog: the command, for its help.
    """
    parts = _parts(box)
    stated, rest = parts[0], " ".join(parts[1:])
    see = f"see `{prog} --help`"
    if found := re.match(r"Missing from .*?: (\S+) (.*?)[.\s]*\(required\)", stated):
        return f"{found[1]} is missing: {found[2]}; {see}."
    if found := re.match(r"Unrecognized (?:or misplaced )?options: +([^\s,]+)", stated):
        near = re.findall(r"(?<!\S)--[\w.-]+", rest) if found[1].startswith("-") else re.findall(r"[\w-]+:[\w-]+", rest)
        return unknown("option", found[1], near) if near else f"{found[1]!r} is not a known option; {see}."
    if found := re.match(r"invalid choice (.+?) for argument '(.+?)'. Expected one of \((.+?),?\)", stated):
        return f"{found[2]} is {found[1]}, but it is one of {found[3]}."
    if found := re.match(r"Missing value for argument '(.+?)'. Expected (\d+) values?", stated):
        return f"{found[1]} has too few values, but it needs {found[2]}; {see}."
    if found := re.match(r"Error parsing (-\S+): (.*)", stated):
        option, value = found[1], re.search(r"from \[(.*?)\]|: ('[^']*')$", stated)
        takes = re.search(rf"{re.escape(option)} (?:\{{None\}}\|)?([A-Z]+)\b", rest)
        if value and takes and takes[1] in KINDS:
            return f"{option} is {value[1] or value[2]}, but it must be {KINDS[takes[1]]}; {see}."
        return f"{option}: {found[2].rstrip('.')}; {see}."
    stated = re.sub(r"^Error parsing \w+: ", "", stated)
    return stated if stated.endswith(".") else f"{stated}; {see}."


def _parts(box: str) -> list[str]:
    """Return the parts of a box, each as one line, without its title and borders (which are dashes where the output is not UTF-8)."""
    lines = [line.strip().strip("│").strip() for line in box.splitlines() if line.strip()]
    title = 1 if lines and lines[0].startswith("╭") else 2
    parts = [""]
    for text in lines[title:]:
        if not text.strip("─-"):
            parts.append("")
        elif not text.startswith("╰"):
            parts[-1] += f" {text}"
    return [" ".join(part.split()) for part in parts if part] or ["the arguments cannot be read"]
