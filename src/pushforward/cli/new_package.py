"""`pushforward new-package NAME`: write a package with parts of one's own, found by their entry points, and the laws that they obey."""

import importlib.metadata
import importlib.resources
import keyword
import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jinja2
import tyro

import pushforward
from pushforward.cli.options import parse
from pushforward.cli.output import result
from pushforward.cli.run import check_folder, notify
from pushforward.errors import RunExistsError, UserError
from pushforward.formats.files import write_folder


class Part(NamedTuple):
    """A part that the package may have: its module, public name, object, what it is, and a command that uses it."""

    name: str
    public: str
    object: str
    what: str
    try_: str = ""


PARTS = (
    Part("bijection", "bijections.Asinh", "Asinh", "an invertible map of vectors"),
    Part("path", "paths.Power", "Power", "a path from data to noise"),
    Part("sampler", "samplers.Ralston3", "Ralston3", "a solver of the ODE"),
    Part("guidance", "guidance.Fading", "Fading", "guidance of a conditional model"),
    Part("data", "data.windmill", "windmill", "a data set", "pushforward train rectified_flow --data windmill --steps 500"),
    Part("preset", "models.cosine_flow", "cosine_flow", "a model", "pushforward train cosine_flow --data moons --steps 500"),
    Part("command", "cli.moments", "moments", "a command", "pushforward moments RUN"),
)
OTHERS = ("pushforward", "torch", "tests", "src", "conftest", "setup")  # also what pytest and setuptools take for a file of theirs
Kind = Literal["bijection", "path", "sampler", "guidance", "data", "preset", "command"]


@dataclass(frozen=True)
class NewPackage:
    """Write a package of presets, parts, data sets and commands of your own, each in one file with the test of its laws.

    Args:
        name: the package's import name, such as my_flows.
        parts: what it starts with.
        out: folder to write; by default NAME in the current folder, with hyphens.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    parts: tuple[Kind, ...] = typing.get_args(Kind)
    out: Path | None = None


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(NewPackage, arguments, prog="pushforward new-package", description=str(NewPackage.__doc__).partition("\n")[0])
    name = _checked(options.name)
    if not options.parts:
        raise UserError("--parts is empty, but a package has at least one; leave it out for all of them.")
    out = options.out or Path(name.replace("_", "-"))
    if out.exists():
        raise RunExistsError(f"{out} exists already; give another folder by --out, or remove it.")
    check_folder(out.parent, f"--out is {out}")
    parts = [part for part in PARTS if part.name in options.parts]
    write_folder(out, lambda folder: _fill(folder, name, parts), manifest=False)
    notify(f"wrote {out}: {', '.join(part.name for part in parts)}; next: cd {out} && pip install -e '.[test]' && pytest")
    result(out, out=out, parts=[part.name for part in parts])
    print(out)
    return 0


def _checked(name: str) -> str:
    """Return the import name of a package that Python can import.

    Raises:
        UserError: it is no such name, or that of a module that exists.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9_]{0,98}[a-z0-9])?", name) or keyword.iskeyword(name):
        raise UserError(
            f"NAME is {name[:120]!r}, but it must be a name that Python imports: up to 100 lower-case letters, digits and _, such as "
            "my_flows."
        )
    if name in sys.stdlib_module_names or name in OTHERS or name in importlib.metadata.packages_distributions():
        raise UserError(f"NAME is {name!r}, which is the name of another module; choose one of your own, such as my_{name}.")
    return name


def _fill(folder: Path, name: str, parts: Sequence[Part]) -> None:
    """Write the files of the package into its folder."""
    source = folder / "src" / name
    files = {"pyproject.toml": folder, "README.md": folder, "__init__.py": source}
    files |= {f"{part.name}.py": source for part in parts} | {f"test_{part.name}.py": folder / "tests" for part in parts}
    settings = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    templates = importlib.resources.files("pushforward.cli").joinpath("package")
    for file, where in files.items():
        where.mkdir(parents=True, exist_ok=True)
        template = settings.from_string(templates.joinpath(f"{file}.jinja").read_text(encoding="utf-8"))
        text = template.render(name=name, distribution=name.replace("_", "-"), parts=parts, version=pushforward.__version__)
        (where / file).write_text(text, encoding="utf-8")
