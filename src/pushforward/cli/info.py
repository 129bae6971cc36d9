"""`pushforward info RUN`: describes a run or a saved model."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pushforward.cli.options import parse
from pushforward.cli.output import result
from pushforward.cli.run import run_config
from pushforward.errors import CheckpointError
from pushforward.formats.config import dump_yaml
from pushforward.formats.files import check_folder
from pushforward.formats.model import build
from pushforward.formats.run import checkpoints
from pushforward.training.progress import read_metrics


@dataclass(frozen=True)
class Info:
    """Describe a run or a saved model.

    Args:
        run: run folder, folder written by pushforward.save, or pipeline folder of diffusers.
    """

    run: Annotated[Path, tyro.conf.Positional]


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    folder = parse(Info, arguments, prog="pushforward info", description="Describe a run or a saved model.").run
    config = run_config(folder)
    model = build(config, str(folder / "config.yaml"))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("preset", str(config["preset"]))
    table.add_row("parameters", f"{sum(p.numel() for p in model.parameters()):,}")
    table.add_row("event shape", str(model.shape))
    columns = "" if model.schema is None or not model.schema.columns else str(model.schema)
    table.add_row("classes, levels", f"{model.classes}, {'those of the columns' if columns else model.levels}")
    if model.conditioning.shape is not None:
        given = "" if model.schema is None or not model.schema.given else f" of {', '.join(model.schema.given_names)}"
        table.add_row("conditions", f"{'vectors' if model.cond_features else 'images'} of shape {model.conditioning.shape}{given}")
    metrics = read_metrics(folder / "metrics.jsonl")
    steps = [row for row in metrics if "loss" in row]
    if steps:
        total = config.get("training", {}).get("steps")
        table.add_row("progress", f"step {steps[-1]['step']} of {total}, {steps[-1]['seconds']:.0f} s, loss {steps[-1]['loss']:.4f}")
        for name, value in _costs(steps):
            table.add_row(name, value)
    judged = [row for row in metrics if "validation_loss" in row]
    if judged:
        best = min(judged, key=lambda row: row["validation_loss"])
        table.add_row(
            "validation loss", f"{best['validation_loss']:.4f} at step {best['step']} (best), {judged[-1]['validation_loss']:.4f} (last)"
        )
    result(
        None, run=folder, preset=config["preset"], parameters=sum(p.numel() for p in model.parameters()), shape=model.shape,
        classes=model.classes, levels=model.levels, step=steps[-1]["step"] if steps else None,
        best_validation_loss=min((row["validation_loss"] for row in judged), default=None), config=config,
    )  # fmt: skip
    saved, states = checkpoints(folder), dict[str, str]()
    for name in saved.names():
        try:
            check_folder(saved.folder / name)
            state = "intact"
        except CheckpointError as error:
            state = str(error)
        states[name] = state
        table.add_row(f"checkpoint {name}", state)
    result(None, checkpoints=states)
    console = Console()
    console.print(table, highlight=False)
    shown = {key: value for key, value in config.items() if key != "preset"}
    if columns:  # their records are long
        shown["model"] = {**shown["model"], "schema": f"{len(columns.splitlines())} columns, listed above"}
    for text in (columns, dump_yaml(shown).rstrip()):
        console.print(f"\n{text}" if text else "", highlight=False, markup=False, soft_wrap=True)
    return 0


def _costs(steps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield a summary of a run's telemetry; runs of earlier versions have less of it."""
    rates = [row["samples_per_second"] for row in steps if "samples_per_second" in row]
    if rates:
        yield "throughput", f"{statistics.median(rates):,.0f} samples/s (median)"
    phases: dict[str, float] = {}
    for row in steps:
        for name, seconds in row.get("phases", {}).items():
            phases[name] = phases.get(name, 0.0) + seconds
    reduced = phases.pop("all_reduce", None)  # overlaps with the backward pass
    total = sum(phases.values())
    if total:
        parts = sorted(phases.items(), key=lambda one: -one[1])
        yield "time by phase", ", ".join(f"{name} {seconds / total:.1%}" for name, seconds in parts)
        if reduced is not None:
            yield "all-reduce", f"{reduced / total:.1%} of that time, within backward"
    if "loss_by_t" in steps[-1]:
        tenths = [f"{sum(values) / len(values):.2f}" if values else "-" for values in _by_tenth(steps)]
        yield "loss by tenths of t", " ".join(tenths)
    if "memory_mb" in steps[-1]:
        yield "memory", f"{steps[-1]['memory_mb']:,.0f} MB at most"
    if "skipped" in steps[-1]:
        yield "skipped steps", str(steps[-1]["skipped"])


def _by_tenth(steps: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the losses of each tenth of the time interval in the last tenth of the run."""
    last = [row["loss_by_t"] for row in steps[-max(1, len(steps) // 10) :] if "loss_by_t" in row]
    return [[value for value in column if value is not None] for column in zip(*last, strict=False)]
