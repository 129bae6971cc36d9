"""The build of the site fails where a reader would meet a dead link, or output as prose; needs the packages of `make docs`."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tools_folder import tool

pytest.importorskip("mkdocs")
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def docs(tmp_path, monkeypatch):
    module = tool("docs")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "output.txt").write_text("| a | b |\n|---|---|\n| 1 | 2 |\n\nfirst line\nsecond line\n\nalone\n")
    return module


FENCED = "```text\n{}\n```\n"
INCLUDE = '--8<-- "study/output.txt{}"'


@pytest.mark.parametrize("page", [FENCED.format(INCLUDE.format("")), INCLUDE.format(":1:3"), INCLUDE.format(":8:8"), "no output"])
def test_output_in_a_code_block_and_tables_may_be_included(docs, page):
    tool("docs_output").check(page, docs.RESULTS)


@pytest.mark.parametrize("lines", ["", ":5:6", ":1:8"])
def test_output_that_would_run_into_a_paragraph_is_refused_with_its_line(docs, lines):
    before = FENCED.format("closed") + "\n"  # four lines
    output = tool("docs_output")
    with pytest.raises(output.OutputError, match=r"^line 5: the output 'first line' is outside a code block"):
        output.check(before + INCLUDE.format(lines), docs.RESULTS)


def test_numbers_of_tables_keep_their_percent_signs():
    page = '<p>5 % of</p><td>5 %</td><td style="text-align: right;">1.4 ± 1.0 %</td><td><code>7 % 2</code></td>'
    kept = '<p>5 % of</p><td>5&nbsp;%</td><td style="text-align: right;">1.4 ± 1.0&nbsp;%</td><td><code>7 % 2</code></td>'
    assert tool("docs_output").unbroken(page) == kept


def test_blocks_keep_the_line_numbers_of_the_page(docs):
    page = 'text\n```python\nx = 1\n```\n\n```python\n--8<-- "study.py"\n```\n'
    assert docs.blocks(page, "page.md").split("\n") == ["", "", "x = 1", *[""] * 5]
    with pytest.raises(PluginError, match=r"^page\.md:1: this block is not closed"):
        docs.blocks("```python\nx = 1\n", "page.md")


def test_code_that_ran_is_run_again_when_it_or_the_library_changes(docs, tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "CACHE", tmp_path / "cache" / "docs")
    log = tmp_path / "log"
    source = f"open({str(log)!r}, 'a').write('x')\nprint('hello')\nopen('table.txt', 'w').write('| a |')\n"

    def runs(*job):
        docs.run.cache_clear()  # as a new build
        before = len(log.read_text()) if log.exists() else 0
        assert docs.run(*job) == ""
        return len(log.read_text()) - before

    assert runs("one.py", source, "one", "library") == 1
    (tmp_path / "one" / "output.txt").unlink()
    assert runs("one.py", source, "one", "library") == 0
    assert {path.name: path.read_text() for path in (tmp_path / "one").iterdir()} == {"output.txt": "hello\n", "table.txt": "| a |"}
    assert runs("one.py", source + "# more", "one", "library") == 1
    assert runs("one.py", source, "one", "changed") == 1
    failing = f"open({str(log)!r}, 'a').write('x')\nraise ValueError('no')"
    for _ in range(2):
        docs.run.cache_clear()
        assert "ValueError: no" in docs.run("two.py", failing, "two", "library")


@pytest.mark.parametrize("link", ["other.md#here", "#first", "other.md#nowhere", "#nowhere", "missing.md"])
def test_the_command_of_make_docs_fails_on_a_dead_link(tmp_path, link):
    """With the command of the Makefile and the validation of mkdocs.yml, without running the code of the site."""
    command = re.search(r"-m (mkdocs build .*)", (ROOT / "Makefile").read_text())[1].split()
    validation = re.search(r"^validation:\n(?: .*\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[0]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: test\ntheme: null\nplugins: []\n{validation}")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# First\n\n[link]({link})\n")
    (tmp_path / "docs" / "other.md").write_text("# Here\n")
    done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True)
    dead = link.endswith("nowhere") or link == "missing.md"
    assert done.returncode == dead, done.stderr
    assert (link in done.stderr) == dead


def test_what_the_code_of_the_site_imports_is_installed_by_make_docs():
    """`make docs` installs dependencies and some extras; a page must not need what another make target installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.search(r"-e \"\.\[(docs[\w,]*)\]\"", (ROOT / "Makefile").read_text(encoding="utf-8"))[1].split(",")
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    declared = {normal(re.match(r"[\w.-]+", one)[0]) for one in wanted}
    modules = {one: {normal(name) for name in names} for one, names in importlib.metadata.packages_distributions().items()}
    for path in sorted((ROOT / "docs" / "code").glob("*.py")):
        for module in imported(path) - sys.stdlib_module_names - {"pushforward", "docs_moving"}:  # itself, and a module of tools/
            assert modules.get(module, {module}) & declared, f"{path.name} imports {module}"


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path):
    """Return the top-level modules that a file imports, also inside functions."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [one.name for node in nodes if isinstance(node, ast.Import) for one in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}
