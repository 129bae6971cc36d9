"""Imports point one way: each part of the table in docs/architecture.md imports, where a module is read, only from the parts above it."""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pushforward"


def parts():
    """Return the place in the table of each file or package that it names, by path relative to the package."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[\w./]+`(?:, )?)+)", text[text.index("## The parts") : text.index("## Interfaces")], re.MULTILINE)
    return {name.rstrip("/"): place for place, row in enumerate(rows) for name in re.findall(r"`([\w./]+)`", row)}


def part_of(file):
    """Return the file or package directly inside `pushforward` that a source file belongs to."""
    return file.relative_to(PACKAGE).parts[0]


def imported(tree):
    """Yield the modules and names of `pushforward` that a module imports while it is read: outside functions and TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pushforward":
            yield from ((node.module, alias.name) for alias in node.names)
        elif not isinstance(node, ast.FunctionDef) and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield from imported(node)


@functools.cache
def read_by(file):
    """Return the source files of `pushforward` that a file imports, with the module and name of each."""
    return [(file_of(module, name), module, name) for module, name in imported(ast.parse(file.read_text(encoding="utf-8")))]


@functools.cache
def file_of(module, name):
    """Return the source file that `from module import name` reads."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    candidates = [base / f"{name}.py", base / name / "__init__.py", base.with_suffix(".py"), base / "__init__.py"]
    return next(file for file in candidates if file.is_file())


def test_each_part_imports_only_from_those_above_it():
    places, found = parts(), []
    sources = [file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or not file.name.startswith("__")]
    unnamed = sorted({part_of(file) for file in sources} - set(places) - {"_names.py"})
    assert not unnamed, f"docs/architecture.md does not name {unnamed}"
    for file in sources:
        for other, module, name in read_by(file):
            target = part_of(other)
            if not target.startswith("__") and target != "_names.py" and places[target] > places[part_of(file)]:
                found.append(f"{file.relative_to(PACKAGE)} imports {module}.{name}, but {target} is below {part_of(file)}")
    assert not found, "\n".join(found)


def test_no_module_imports_itself_through_others():
    sources = [file for file in PACKAGE.rglob("*.py") if file.name != "_names.py"]
    reads = {file: {other for other, *_ in read_by(file)} for file in sources}
    done, path = set(), []

    def visit(file):
        assert file not in path, " -> ".join(str(one.relative_to(PACKAGE)) for one in [*path[path.index(file) :], file])
        if file in done:
            return
        path.append(file)
        for other in reads.get(file, ()):
            if other.name != "__init__.py":
                visit(other)
        path.pop()
        done.add(file)

    for file in sources:
        visit(file)
