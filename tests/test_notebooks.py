"""The notebooks of examples/: each is what its Python file is, is listed, and reproduces its numbers."""

import ast
import json
import re
import runpy
from pathlib import Path

import pytest
from packages import package

nbformat = package("nbformat")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "notebooks"
TOOL = runpy.run_path(str(ROOT / "tools" / "notebooks.py"))
NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
LISTS = ("docs/en/notebooks.md", "docs/zh/notebooks.md")

# What each notebook claims, by its last value `results`. Bounds have room for other versions of torch: each is far from what a model that
# does not work gives (a Gaussian mixture, chance, interpolation, the prior).
CLAIMS = {
    "density_of_a_table": lambda r: r["flow"] > r["mixture"] + 2 and r["columns"] == 30,
    "anomaly_detection": lambda r: r["auc"] > max(0.93, r["auc of the forest"] + 0.1) and r["false alarms"] < 0.1 < 0.5 < r["detected"],
    "class_conditional_digits": lambda r: (
        r["accuracy 0"] < 0.2 < 0.85 < r["accuracy 1"] < r["accuracy 2"] and r["spread 0"] > r["spread 1"] > r["spread 2"]
    ),
    "image_folder": lambda r: r["classes"] == 10 and r["right"] > 0.75 and 0.7 < r["distance"] / r["distance of real"] < 1.4,
    "text_to_emoji": lambda r: r["captions"] >= 20 and r["right"] > 0.8 and r["chance"] < 0.06,
    "sd3_fine_tune": lambda r: (
        r["with prior, mine"] < 1.2 < 2 < r["before, mine"]
        and r["with prior, dogs"] < 0.9 < 2 < r["alone, dogs"]
        and abs(r["merged, mine"] - r["with prior, mine"]) < 1e-3
        and r["trained"] < 0.2
    ),
    "inverse_problem": lambda r: r["posterior mean"] < 0.8 * r["interpolation"] and 0.4 < r["misfit"] < 0.9,
    "simulation_based_inference": lambda r: (
        0 < r["gap"] < 1 < 4 < r["prior gap"] and r["distance"] < 0.25 and r["noise"] < 0.05 and 0.4 < r["upper"] < 0.6
    ),
}


def test_every_notebook_has_a_claim_and_there_are_at_most_eight():
    assert sorted(CLAIMS) == NAMES
    assert len(NAMES) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_what_its_python_file_is(name):
    written = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(written)
    made = TOOL["notebook"]((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    assert [(one.cell_type, one.source) for one in written.cells] == [(one.cell_type, one.source) for one in made.cells]
    assert all(not one.get("outputs") for one in written.cells)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_a_title_a_guide_sentences_and_no_path_of_a_machine(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    first = cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \w", first.source)
    guides = re.findall(r"\]\((\.\./\.\./docs/en/[\w/-]+\.md)\)", first.source)
    assert guides
    assert all((FOLDER / guide).is_file() for guide in guides)
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert len(cells) >= 2 * len(code) - 1  # a sentence before each cell
    for source in code:
        ast.parse(source)
        assert not re.search(r"""["'](/|~|[A-Z]:\\)""", source)
        assert len(source.splitlines()) <= 30


@pytest.mark.parametrize("page", LISTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_docs_list_every_notebook(name, page):
    assert f"examples/notebooks/{name}.ipynb" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readmes_link_the_list(page):
    assert "docs/" in (text := (ROOT / page).read_text(encoding="utf-8"))
    assert re.search(r"docs/(en|zh)/notebooks\.md", text)


def test_the_tool_notices_a_notebook_that_differs(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.py").write_text("# %% [markdown]\n# # Title\n\n# %%\nx = 1\n", encoding="utf-8")
    monkeypatch.setitem(TOOL["main"].__globals__, "FOLDER", tmp_path)
    assert TOOL["main"](["--check"]) == 1
    assert TOOL["main"]([]) == 0
    assert TOOL["main"](["--check"]) == 0
    (tmp_path / "a.py").write_text("# %%\nx = 2\n", encoding="utf-8")
    assert TOOL["main"](["--check"]) == 1
    assert "a.ipynb" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_its_numbers_are_as_it_claims(name, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: run pip install 'pushforward[dev]'.")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: run pip install 'pushforward[dev]'.")
    if name == "text_to_emoji":
        pytest.importorskip("wordllama", reason="wordllama is not installed: run pip install wordllama.")
        from pushforward.data.emoji import DEBIAN

        if not DEBIAN.is_file():
            pytest.skip("The emoji font is not installed: run apt-get install fonts-noto-color-emoji.")
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    book.cells.append(nbformat.v4.new_code_cell("import json\nprint(json.dumps(results))"))
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    results = json.loads(book.cells[-1].outputs[-1].text)
    assert CLAIMS[name](results), results
    pictures = [one for cell in book.cells for one in cell.get("outputs", ()) if "image/png" in one.get("data", {})]
    assert len(pictures) == 1
