"""Run the benchmarks: `python -m benchmarks [--only flows|dopri5|overhead|likelihood|training] [--write]`."""

import argparse
import datetime
import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import flows, likelihood, solvers, training  # noqa: F401  (they register their rows)
from benchmarks.rows import FLOOR, OURS, ROWS, Row

PEERS = ("torchdiffeq", "torchode", "zuko", "diffusers", "flow_matching", "nflows", "normflows", "FrEIA")
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Times against the peers, one thread.")
    parser.add_argument("--only", choices=sorted(ROWS), help="one group of rows")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name, measure in ROWS.items() if options.only in (None, name) for row in measure()]
    Console(width=170).print(_table(rows))
    if options.write:
        RESULTS.write_text(_markdown(rows, "python -m benchmarks " + shlex.join(sys.argv[1:])), encoding="utf-8")
    return 0


def _cells(row: Row) -> list[str]:
    peers = ", ".join(f"{name} {_number(value)}" for name, value in sorted(row.peers().items(), key=lambda item: item[1]))
    middle, least, most = row.ratio
    spread = f"{middle:.2f}x" if least == most else f"{middle:.2f}x ({least:.2f} to {most:.2f})"
    floor = _number(row.values[FLOOR]) if FLOOR in row.values else "–"
    return [f"{row.case} ({row.unit})", _number(row.values[OURS]), peers, floor, spread, row.bar, "pass" if row.passed else "FAIL"]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


HEADS = ("case", "pushforward", "peers", "floor", "over the fastest peer", "bar", "")


def _table(rows: list[Row]) -> Table:
    table = Table()
    for head in HEADS:
        table.add_column(head, justify="right" if head in ("pushforward", "floor") else "left")
    for row in rows:
        table.add_row(*_cells(row), style=None if row.passed else "red")
    return table


def _markdown(rows: list[Row], command: str) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *PEERS))
    lines = [
        "# Times against the peers",
        "",
        f"Command: `OMP_NUM_THREADS=1 {command.strip()}` (or `make bench`), {datetime.date.today().isoformat()}.",
        f"Machine: {_processor()}, one thread, {platform.system()}, Python {platform.python_version()}, {versions}.",
        "",
        "Contenders take turns and the minimum counts; the ratio is the median of five such runs, with the least and the most. Before",
        "anything is timed, all results of a row are compared. The floor is hand-written eager PyTorch for exactly this case",
        "(`floors.py`), in dopri5 with one step size for the whole batch where we have one a sample. Overhead is what 1,000 steps cost",
        "over the field itself. In both rows of dopri5's error, and in its time at d=2, the ratio is to torchdiffeq alone. zuko's",
        "likelihood is its own `FreeFormJacobianTransform` with the same midpoint steps in place of its adaptive solver. We and the",
        "floor leave out the divergence of midpoint's first stage, which has no weight in the step; the peers evaluate it.",
        "",
        "| " + " | ".join(HEADS[:-1]) + " | reached |",
        "|---|---:|---|---:|---|---|---|",
        *("| " + " | ".join(_cells(row)) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
