"""Run the benchmarks: `python -m benchmarks [--only GROUP] [--plain] [--write]`."""

import argparse
import contextlib
import datetime
import importlib.metadata
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import pushforward as pf
from benchmarks import (  # noqa: F401  (they register their rows)
    aliasing,
    continuous,
    few_steps,
    flows,
    glow,
    image_networks,
    jacobi,
    likelihood,
    mmdit,
    sd3_training,
    solvers,
    training,
)
from benchmarks.rows import FLOOR, OURS, ROWS, Row, plain_row

PEERS = ("torchdiffeq", "torchode", "zuko", "diffusers", "flow_matching", "nflows", "normflows", "FrEIA", "torchflows")
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Times against the peers, one thread.")
    parser.add_argument("--only", choices=sorted(ROWS), help="one group of rows")
    parser.add_argument("--plain", action="store_true", help="without the fast paths (pf.fast.disabled), with the bar for that")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, measure in ROWS.items():
        if options.only in (None, name):
            with pf.fast.disabled() if options.plain else contextlib.nullcontext():
                rows = measure()
            if options.plain:
                rows = [plain_row(row) for row in rows if not row.values.keys().isdisjoint(PEERS)]
            if not rows:
                continue
            Console(width=170).print(_table(rows))
            if options.write:
                write(f"{name}, plain" if options.plain else name, rows)
    return 0


def write(title: str, rows: list[Row]) -> None:
    """Put a group's section into RESULTS.md, in place of the one that was there; other groups keep theirs, with their dates."""
    head, *sections = RESULTS.read_text(encoding="utf-8").split("\n## ")
    kept = {section.split("\n", 1)[0]: section for section in sections}
    kept[title] = _section(title, rows)
    RESULTS.write_text("\n## ".join([head, *(kept[one] for one in sorted(kept))]).rstrip() + "\n", encoding="utf-8")


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


def _section(title: str, rows: list[Row]) -> str:
    name, _, plain = title.partition(", ")
    command = f"OMP_NUM_THREADS=1 python -m benchmarks --only {name}{' --plain' if plain else ''} --write"
    versions = ", ".join(f"{one} {importlib.metadata.version(one)}" for one in ("torch", *PEERS))
    lines = [
        title,
        "",
        f"`{command}`, {datetime.date.today().isoformat()}. {_processor()}, one thread, "
        f"{platform.system()}, Python {platform.python_version()}, {versions}.",
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
