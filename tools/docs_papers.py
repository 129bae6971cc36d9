"""The reference page of papers and of other libraries' names, by which readers search: generated from docstrings and two tables."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pushforward import registry

TOOLS = Path(__file__).resolve().parent
NUMBER = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def page() -> str:
    """Return the page in Markdown.

    Raises:
        ValueError: tools/peers.yaml names an object that is not public.
    """
    papers, peers = (yaml.safe_load((TOOLS / name).read_text(encoding="utf-8")) for name in ("papers.yaml", "peers.yaml"))
    lines = ["# Papers and other libraries", "", "The papers that the reference cites, and the parts that are built on each.", ""]
    lines += _papers(papers)
    for peer, names in peers.items():
        lines += [f"## {peer} {{#{re.sub(r'[^a-z]+', '-', peer.lower()).strip('-')}}}", "", f"| {peer} | pushforward |", "|---|---|"]
        lines += [f"| `{theirs}` | {_link(ours)} |" for theirs, ours in names.items()] + [""]
    return "\n".join(lines)


def _papers(papers: Mapping[str, list[Any]]) -> list[str]:
    cited: dict[str, list[str]] = {}
    for name in registry.names():
        for number in dict.fromkeys(NUMBER.findall(_docs(registry.entry(name).thing))):
            cited.setdefault(number, []).append(name)
    lines: list[str] = []
    for number, names in sorted(cited.items(), key=lambda one: _order(papers, one[0])):
        if number in papers:
            authors, year, title = papers[number]
            lines += [f"## {authors} {year} {{#{_anchor(number)}}}", "", f"{title}, [arXiv {number}](https://arxiv.org/abs/{number}):"]
        else:
            lines += [f"## arXiv {number} {{#{_anchor(number)}}}", ""]
        lines += [", ".join(map(_link, names)) + ".", ""]
    return lines


def _order(papers: Mapping[str, list[Any]], number: str) -> tuple[Any, ...]:
    """By authors and year; papers without an entry are last."""
    return (0, papers[number][0], papers[number][1], number) if number in papers else (1, "", 0, number)


def _anchor(number: str) -> str:
    return f"arxiv-{number.replace('.', '-')}"


def _docs(thing: Any) -> str:
    """The docstrings of an object and of its module, whose first paragraph cites the paper of a preset."""
    module = inspect.getmodule(thing)
    return f"{thing.__doc__ or ''}\n{(module.__doc__ or '') if inspect.isfunction(thing) and module else ''}"


def _link(name: str) -> str:
    if name not in registry.names():
        raise ValueError(f"tools/peers.yaml names {name}, which is not public; correct it.")
    group = name.partition(".")[0] if "." in name else "top-level"
    return f"[`pf.{name}`]({group}.md#{name})"
