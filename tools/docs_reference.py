"""The API reference of the site, one page for each group of public names, read from the registry (see tools/docs.py)."""

import dataclasses
import inspect
import re
from typing import Any

from docstring_parser import Docstring, DocstringStyle, parse
from docstring_parser.google import DEFAULT_SECTIONS

from pushforward import registry

GROUPS = {
    "functional": "Functions on tensors",
    "nn": "Layers and networks",
    "ode": "Solving dx/dt",
    "paths": "Paths",
    "times": "Times",
    "pairings": "Pairings",
    "weightings": "Weightings",
    "augmentations": "Augmentations",
    "bases": "Base distributions",
    "samplers": "Samplers",
    "guidance": "Guidance",
    "bijections": "Bijections",
    "families": "Families",
    "models": "Models",
    "data": "Data",
    "formats": "Files",
    "sd3": "Stable Diffusion 3: what is beside the networks",
    "evaluation": "Evaluation",
    "training": "Training",
    "": "Top level",
}
WIDTH = 88  # of a signature on one line
SECTION = re.compile(rf"^(?:{'|'.join(section.title for section in DEFAULT_SECTIONS)}):[ \t]*$", re.MULTILINE)
LABEL = re.compile(r"^([A-Z][a-z]+(?: [a-z]+)?): ", re.MULTILINE)  # Shapes: …, Refuses: …, Source: …


def pages() -> dict[str, str]:
    """Return the text of each page by file name; a group that is not in GROUPS gets one too."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in registry.names():
        groups.setdefault(name.partition(".")[0] if "." in name else "", []).append(name)
    texts = {f"{_file(group)}.md": _page(group, names) for group, names in groups.items()}
    return {"index.md": _index(groups), **texts}


def _file(group: str) -> str:
    return group or "top-level"


def _title(group: str) -> str:
    return GROUPS.get(group, group)


def _index(groups: dict[str, list[str]]) -> str:
    lines = ["# API reference", "", "Every public name, as the code says it: `import pushforward as pf`, then the name.", ""]
    for group, names in groups.items():
        if names:
            lines += [f"## [{_title(group)}]({_file(group)}.md)", ""]
            lines += [f"- [`pf.{name}`]({_file(group)}.md#{name}): {_prose(registry.summary(name))}" for name in names]
            lines.append("")
    if not any(groups.values()):
        lines.append("No name is public yet.")
    return "\n".join([*lines, ""])


def _page(group: str, names: list[str]) -> str:
    lines = [f"# {_title(group)}", ""]
    if not names:
        lines += ["This part has no public name yet.", ""]
    for name in names:
        lines += _entry(registry.entry(name))
    return "\n".join(lines)


def _entry(entry: registry.Entry) -> list[str]:
    thing = entry.thing
    lines = [f"## pf.{entry.name} {{#{entry.name}}}", ""]
    lines += _signature(entry.name.rpartition(".")[2], thing)
    lines += _docstring(_own_doc(thing))
    olds = sorted(old for old, new in registry._aliases.items() if new == entry.name)
    facts = [f"{key}: {value}" for key, value in entry.facts.items()] + [f"old name: `pf.{old}`" for old in olds]
    lines += [f"*{'; '.join(facts)}* · `{thing.__module__}`" if facts else f"`{thing.__module__}`", ""]
    if inspect.isclass(thing):
        for name, member in _methods(thing):
            lines += [f"### {name} {{#{entry.name}.{name}}}", ""]
            lines += [] if isinstance(member, property) else _signature(name, member)
            lines += _docstring(inspect.getdoc(member) or "")
    return lines


def _own_doc(thing: Any) -> str:
    """The docstring, but not the one that dataclass makes when there is none."""
    doc = inspect.cleandoc(thing.__doc__ or "")
    return "" if dataclasses.is_dataclass(thing) and doc.startswith(f"{thing.__name__}(") else doc


def _methods(thing: type) -> list[tuple[str, Any]]:
    """The public methods and properties that the package itself defines and that say something."""
    found: dict[str, Any] = {}
    for base in thing.__mro__:
        if base.__module__.partition(".")[0] != thing.__module__.partition(".")[0]:
            continue
        for name, member in vars(base).items():
            documented = inspect.getdoc(member) and (inspect.isroutine(member) or isinstance(member, property))
            if not name.startswith("_") and name not in found and documented:
                found[name] = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    return list(found.items())


def _signature(name: str, thing: Any) -> list[str]:
    if not callable(thing):
        return []
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return []
    fields = dataclasses.fields(thing) if inspect.isclass(thing) and dataclasses.is_dataclass(thing) else ()
    factories = {one.name: one.default_factory() for one in fields if one.default_factory is not dataclasses.MISSING}
    kinds = inspect.Parameter
    shown: list[str] = []
    starred = False
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    for number, parameter in enumerate(parameters):
        if parameter.kind is kinds.KEYWORD_ONLY and not starred:
            shown.append("*")
            starred = True
        starred |= parameter.kind is kinds.VAR_POSITIONAL
        shown.append(_parameter(parameter.replace(default=factories[parameter.name]) if parameter.name in factories else parameter))
        following = parameters[number + 1].kind if number + 1 < len(parameters) else None
        if parameter.kind is kinds.POSITIONAL_ONLY and following is not kinds.POSITIONAL_ONLY:
            shown.append("/")
    returned = signature.return_annotation
    arrow = "" if inspect.isclass(thing) or returned is signature.empty else f" -> {_annotation(returned)}"
    text = f"{name}({', '.join(shown)}){arrow}"
    if len(text) > WIDTH:
        text = "\n".join([f"{name}(", *(f"    {one}," for one in shown), f"){arrow}"])
    return ["```python", text, "```", ""]


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotated = parameter.annotation is not parameter.empty
    text = f"{stars}{parameter.name}" + (f": {_annotation(parameter.annotation)}" if annotated else "")
    if parameter.default is parameter.empty:
        return text
    default = parameter.default
    value = default.__name__ if inspect.isroutine(default) or inspect.isclass(default) else re.sub(r" at 0x[0-9a-f]+", "", repr(default))
    value = "..." if value.startswith("<") else value
    return f"{text} = {value}" if annotated else f"{text}={value}"


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z_])", "", text).replace("NoneType", "None")


def _docstring(doc: str) -> list[str]:
    if not doc:
        return []
    parsed = parse(doc, DocstringStyle.GOOGLE)
    lines = [_markdown(SECTION.split(doc, maxsplit=1)[0].strip()), ""]  # not the parser's, which takes the indentation from a formula
    lines += _list("Arguments", [(one.arg_name, one.type_name, one.description) for one in parsed.params])
    lines += _list("Returns", [("", one.type_name, one.description) for one in parsed.many_returns])
    lines += _list("Raises", [("", one.type_name, one.description) for one in parsed.raises])
    # A paragraph "Source: ..." after the sections is no section to the parser, which drops it.
    after = SECTION.split(doc, maxsplit=1)[1:]
    closing = [_markdown(paragraph) for paragraph in re.split(r"\n\s*\n", after[0] if after else "") if LABEL.match(paragraph)]
    return lines + _examples(parsed) + [line for paragraph in closing for line in (paragraph, "")]


def _list(title: str, items: list[tuple[str, str | None, str | None]]) -> list[str]:
    if not items:
        return []
    lines = [f"**{title}**", ""]
    for name, kind, description in items:
        head = " ".join(f"`{part}`" for part in (name, kind) if part)
        lines.append("- " + ": ".join(part for part in (head, _prose(" ".join((description or "").split()))) if part))
    return [*lines, ""]


def _examples(parsed: Docstring) -> list[str]:
    lines: list[str] = []
    for example in parsed.examples:
        text = inspect.cleandoc("\n".join(part for part in (example.snippet, example.description) if part))
        kind = "pycon" if ">>>" in text else "text"
        lines += ["**Example**", "", f"```{kind}", text, "```", ""]
    return lines


def _markdown(text: str) -> str:
    """Paragraphs as they are; a line that begins with a label such as "Shapes:" begins one of its own; indented formulas stay code."""
    out: list[str] = []
    for line in text.splitlines():
        if line.startswith("    "):
            out.append(line)
            continue
        label = LABEL.match(line)
        if label:
            out += ["", f"**{label[1]}:** {_prose(line[label.end() :])}"]
        else:
            out.append(_prose(line))
    return "\n".join(out)


def _prose(text: str) -> str:
    """Text in which only `code` means something to Markdown."""
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    escapes = {"*": r"\*", "_": r"\_", "<": "&lt;", ">": "&gt;", "[": "&#91;", "$": "&#36;", "{": "&#123;"}
    return "".join(part if index % 2 else "".join(escapes.get(char, char) for char in part) for index, part in enumerate(parts))
