"""One sentence for each mistake on the command line, in place of the boxes that tyro prints."""

import re
from collections.abc import Sequence

from pushforward.registry import unknown

KINDS = {"INT": "an integer", "FLOAT": "a number", "BOOL": "True or False", "PATH": "a path"}


def sentence(box: str, prog: str, given: Sequence[str] = ()) -> str:
    """Return the message of a box of tyro's, as one sentence.

    Args:
        box: the printed box; its parts are divided by lines, the first one states the mistake.
        prog: the command, for its help.
        given: the arguments, among them the components that are chosen, such as net:mlp.
    """
    parts = _parts(box)
    stated, rest = parts[0], " ".join(parts[1:])
    see = f"see `{prog} --help`"
    if found := re.match(r"Missing from .*?: (\S+) (.*?)[.\s]*\(required\)", stated):
        return f"{found[1]} is missing: {found[2]}; {see}."
    if found := re.match(r"Unrecognized (?:or misplaced )?options: +([^\s,]+)", stated):
        return _unrecognised(found[1], rest, prog, given)
    if found := re.match(r"invalid choice (.+?) for argument '(.+?)'. Expected one of \((.+?),?\)", stated):
        return f"{found[2]} is {found[1]}, but it is one of {found[3]}."
    if found := re.match(r"Missing value for argument '(.+?)'. Expected (\d+) values?", stated):
        return f"{found[1]} has too few values, but it needs {found[2]}; {see}."
    if found := re.match(r"Error parsing (-\S+): (.*)", stated):
        if "key-value pairs" in found[2]:
            return f"{found[1]} takes pairs of NAME VALUE, but a name has no value; {see}."
        option, value = found[1].partition("/")[0], re.search(r"from \[(.*?)\]|: ('[^']*')$", stated)
        takes = re.search(rf"{re.escape(option)} (?:\{{None\}}\|)?([A-Z]+)\b", rest)
        if value and takes and takes[1] in KINDS:
            return f"{option} is {value[1] or value[2]}, but it must be {KINDS[takes[1]]}; {see}."
        series = re.search(rf"{re.escape(option)} (?:\{{None\}}\|)?\[?(INT|FLOAT) \[?\1\b", rest)
        values = re.search(r"arguments:? \[(.*?)\]", stated)
        if series and values:
            wrong = [one for one in re.findall(r"'(.*?)'", values[1]) if not _is(one, series[1])]
            if wrong:
                return f"{option} has {wrong[0]!r}, but each of its values must be {KINDS[series[1]]}; {see}."
        return f"{option}: {found[2].rstrip('.')}; {see}."
    stated = re.sub(r"^Error parsing [\w.-]+: ", "", stated)
    return stated if stated.endswith((".", "?")) else f"{stated}; {see}."


def _is(value: str, kind: str) -> bool:
    try:
        int(value) if kind == "INT" else float(value)
    except ValueError:
        return False
    return True


def _unrecognised(option: str, rest: str, prog: str, given: Sequence[str]) -> str:
    """Return the message for an option that is not known where it stands.

    Options of components, such as --net.hidden, are known after the word that chooses the component, such as net:mlp.
    """
    field, colon, _ = option.removeprefix("--").replace(".", ":", 1).partition(":")
    chosen = next((one for one in given if colon and one.startswith(f"{field}:") and one != option), None)
    if not option.startswith("-"):
        if chosen is not None:
            return f"{option} is given in addition to {chosen}, but there is one {field}; leave one of them out."
        near = re.findall(r"[\w-]+:[\w-]+", rest)
        return unknown("option", option, near) if near else f"{option!r} is not a known option; see `{prog} --help`."
    near = [one for one in re.findall(r"(?<!\S)--[\w.-]+", rest) if one != "--help"]
    if any(one.startswith(f"{option}.") for one in near):
        return _component(option, rest, given)
    if not near:
        return f"{option!r} is not a known option; see `{' '.join([prog, *([chosen] if chosen else [])])} --help`."
    if option not in near:
        return unknown("option", option, near)
    described = re.split(r"(?<!\S)--(?!help\b)", rest.partition(f"{option} ")[2])[0]
    owners = list(dict.fromkeys(re.findall(rf"(?<!\S){re.escape(field)}:[\w-]+", described)))
    if not owners:
        return f"{option!r} is not a known option here; see `{prog} --help`."
    known, one = f"{option} is an option of {' and '.join(owners)}", owners[0]
    if chosen is not None:
        return f"{known}, but {chosen} is chosen; see `{prog} {chosen} --help`, or choose {one}."
    none = "which is not chosen" if len(owners) == 1 else "none of which is chosen"
    return f"{known}, {none}; write {one} before it: `{prog} ... {one} {option} ...`."


def _component(option: str, rest: str, given: Sequence[str]) -> str:
    """Return the message for an option such as --net, which names a component: that is chosen by one word, net:unet."""
    field = option.removeprefix("--")
    words = sorted(set(re.findall(rf"(?<!\S){re.escape(field)}:[\w-]+", rest))) or [f"{field}:NAME"]
    meant = [f"{field}:{value}".lower().replace("-", "") for value in given[list(given).index(option) + 1 :][:1]]
    word = next((one for one in words if one.replace("-", "") in meant), words[0])
    return f"{option!r} is not a known option: {field} is chosen by one word, such as {word}, and its options follow as {option}.NAME."


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
