"""Run the tests with other versions of Python, torch and NumPy, each in an environment of its own: `make matrix`.

    python tools/matrix.py [--only TEXT] [--torch-index URL] [--keep] [-- PYTEST ARGUMENTS]

The cells are the oldest and the newest versions that pyproject.toml supports, for each Python. An interpreter that is not on this machine
is stated and left out. What is tested is all quick tests, unless there are arguments of pytest. --torch-index is the index of the CPU
build of torch, a download of 200 MB in place of gigabytes. uv finds versions that go together: pip tries old combinations one by one, and
has not found any after 20 minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("dev", "data", "log", "sd3")


@dataclass(frozen=True)
class Cell:
    """Versions that are tested together; "" is the newest one that is compatible."""

    python: str
    torch: str
    numpy: str
    without: tuple[str, ...] = ()  # packages of the extras that do not run on these versions; their tests are skipped
    limits: tuple[str, ...] = ()  # of packages whose newer versions do not run on these, and do not declare it

    def __str__(self) -> str:
        return f"Python {self.python}, torch {self.torch or 'newest'}, NumPy {self.numpy or 'newest'}"

    @property
    def pins(self) -> list[str]:
        """The packages whose versions are what the cell is about."""
        return [f"{name}{'==' + version if version else ''}" for name, version in (("torch", self.torch), ("numpy", self.numpy))]

    @property
    def requirements(self) -> list[str]:
        """The pins and limits, what the package requires, and its extras for tests."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = [one for extra in EXTRAS for one in project["optional-dependencies"][extra]]
        return [*self.pins, *self.limits, *project["dependencies"], *(one for one in extras if not one.startswith(self.without))]


CELLS = (
    Cell(
        "3.11", "2.10.0", "1.26.4", without=("wordllama",), limits=("pyarrow<23",)
    ),  # the oldest; newer pyarrow and wordllama need NumPy 2
    Cell("3.11", "2.13.0", "2.4.*"),
    Cell("3.12", "2.13.0", ""),
    Cell("3.13", "2.13.0", ""),
    Cell("3.13", "", ""),
)


def interpreter(version: str) -> str | None:
    """Return the path of an interpreter of this version, None if there is none."""
    found = [shutil.which(f"python{version}"), *sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for path in filter(None, found):
        asked = [str(path), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        run = subprocess.run(asked, capture_output=True, text=True, check=False)
        if run.stdout.strip() == version:
            return str(path)
    return None


def tested(cell: Cell, folder: Path, index: str | None, arguments: list[str]) -> tuple[bool, str]:
    """Return whether the tests pass in a new environment, and their last line."""
    python = interpreter(cell.python)
    if python is None:
        return True, f"left out: there is no python{cell.python} here"
    own = folder / "bin" / "python"
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    install = [str(own), "-m", "uv", "pip", "install", "--quiet", "--python", str(own)]
    steps = [[str(own), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]]
    steps += [[*install, "--no-deps", "--index-url", index, cell.pins[0]]] if index else []
    steps += [[*install, *cell.requirements], [*install, "--no-deps", "--editable", str(ROOT)]]
    for step in steps:
        run = subprocess.run(step, capture_output=True, text=True, check=False)
        if run.returncode:
            return False, f"cannot be installed: {(run.stderr.strip() or run.stdout.strip()).splitlines()[-1]}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(own), "-m", "pytest", "-q", *(arguments or ["-n", "2", "--dist", "loadfile"])]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    lines = run.stdout.strip().splitlines() or ["pytest printed nothing"]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(f"  {line}", flush=True)
    return run.returncode == 0, lines[-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tools/matrix.py", description="Run the tests with other versions.")
    parser.add_argument("--only", default="", help="cells whose description contains this text")
    parser.add_argument("--torch-index", help="index of torch's CPU build")
    parser.add_argument("--keep", type=Path, help="folder in which the environments are kept; by default they are removed")
    parser.add_argument("arguments", nargs="*", help="arguments of pytest, after --")
    options = parser.parse_args()
    failed = 0
    for cell in (one for one in CELLS if options.only in str(one)):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if options.keep is None else options.keep / str(cell).replace(" ", "").replace(",", "-")
            passed, last = tested(cell, folder, options.torch_index, options.arguments)
        failed += not passed
        print(f"{'passed' if passed else 'FAILED'}  {cell}: {last} ({time.monotonic() - began:.0f} s)", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
