"""Writes examples/notebooks/*.ipynb from the Python files next to them, whose cells begin with `# %%` or `# %% [markdown]`.

python tools/notebooks.py            write them
python tools/notebooks.py --check    exit with 1 if one differs
"""

import re
import sys
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook(source: str) -> nbformat.NotebookNode:
    """Return the notebook of a Python file, without outputs."""
    found = nbformat.v4.new_notebook(metadata=METADATA)
    parts = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)
    for k, (kind, body) in enumerate(zip(parts[1::2], parts[2::2], strict=True)):
        body = body.strip("\n")
        if kind.strip() == "[markdown]":
            cell = nbformat.v4.new_markdown_cell(re.sub(r"^# ?", "", body, flags=re.MULTILINE))
        else:
            cell = nbformat.v4.new_code_cell(body)
        cell["id"] = f"cell-{k}"  # a random one would change with every writing
        found.cells.append(cell)
    return found


def main(arguments: list[str]) -> int:
    different = []
    for file in sorted(FOLDER.glob("*.py")):
        written, text = file.with_suffix(".ipynb"), nbformat.writes(notebook(file.read_text(encoding="utf-8"))) + "\n"
        if "--check" in arguments:
            different += [written.name] if not written.is_file() or written.read_text(encoding="utf-8") != text else []
        else:
            written.write_text(text, encoding="utf-8")
    if different:
        print(f"{', '.join(different)}: not what the Python files are; run python tools/notebooks.py.")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
