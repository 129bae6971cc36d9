"""Callbacks of the Trainer, including the progress bar and the metrics file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pushforward._files import MOST_LINES, json_of, text_of
from pushforward.errors import CheckpointError
from pushforward.formats.files import write_text
from pushforward.registry import export

if TYPE_CHECKING:
    from pushforward.training.trainer import Trainer


@export("training.Callback")
class Callback:
    """Base class of Trainer callbacks: override the methods you need.

    Example:
        >>> from pushforward.training.progress import Callback
        >>> class Losses(Callback):
        ...     def __init__(self):
        ...         self.values = []
        ...     def on_step(self, trainer, metrics):
        ...         self.values.append(metrics["loss"])
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Called before the first step, after resuming."""

    def on_every_step(self, trainer: "Trainer") -> None:
        """Called after each step."""

    def on_step(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        """Called every `log_every` steps with the metrics since the last call.

        step, loss and gradient_norm (means over the steps taken; absent if none was), lr, steps_per_second, samples_per_second, seconds,
        skipped (steps so far), memory_mb (peak so far), phases (seconds by phase; all_reduce is part of backward), t_histogram and
        loss_by_t (tenths of the time interval).
        """

    def on_validation(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        """Called after a validation with step and validation_loss; `trainer.averaged_model` has the weights that were evaluated."""

    def on_save(self, trainer: "Trainer", folder: Path) -> None:
        """Called after a checkpoint has been written completely."""

    def on_end(self, trainer: "Trainer") -> None:
        """Called when training has ended, including when it was interrupted."""


class ProgressBar(Callback):
    """A live line: step, loss, steps per second, time left; plain lines if the output is not a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console
        self.bar: Progress | None = None

    def on_start(self, trainer: "Trainer") -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} steps/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        if self.console.is_terminal:
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("training", total=trainer.settings.steps, completed=trainer.step, loss="", rate="")
            self.bar.start()

    def on_step(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        step, total, rate = metrics["step"], trainer.settings.steps, metrics["steps_per_second"]
        loss = f"{metrics['loss']:.4f}" if "loss" in metrics else "(all steps skipped)"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, loss=loss, rate=f"{rate:.1f}")
        elif step // trainer.settings.log_every % max(1, total // trainer.settings.log_every // 10) == 0 or step == total:
            left = (total - step) / max(rate, 1e-9)
            self.console.print(f"step {step}/{total}  loss {loss}  {rate:.1f} steps/s  {left:.0f} s left", highlight=False)

    def on_end(self, trainer: "Trainer") -> None:
        if self.bar is not None:
            self.bar.stop()


class MetricsFile(Callback):
    """Append one JSON object per line to metrics.jsonl; on resuming, lines after the checkpoint's step are dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, trainer: "Trainer") -> None:
        kept = []
        for line in _lines(self.path) if trainer.step else ():
            value = _parsed(line)
            row = _row(value)
            if value is not None and (row is None or row["step"] <= trainer.step):  # JSON that is no row is not ours to remove
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))

    def on_step(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(metrics) + "\n")

    on_validation = on_step


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; lines that are incomplete, or not as `MetricsFile` writes them, are ignored."""
    return [row for line in _lines(path) if (row := _row(_parsed(line))) is not None]


def _lines(path: Path) -> list[str]:
    return text_of(path, CheckpointError, MOST_LINES, errors="replace").splitlines() if path.is_file() else []


def _is_count(value: Any) -> bool:
    return type(value) is int and value.bit_length() < 64


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_count(value)


KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("step", "skipped"), _is_count),
    **dict.fromkeys(("loss", "seconds", "validation_loss", "samples_per_second", "memory_mb"), _is_number),
    "phases": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "loss_by_t": lambda value: isinstance(value, list) and all(one is None or _is_number(one) for one in value),
}


def _parsed(line: str) -> Any:
    """Return the value of a line of JSON, or None for any other, such as an incomplete one."""
    try:
        return json_of(line, finite=False)  # a loss may be NaN
    except ValueError:
        return None


def _row(row: Any) -> dict[str, Any] | None:
    """Return a value if it is a row of metrics, or None."""
    if not isinstance(row, dict) or "step" not in row or ("loss" in row and "seconds" not in row):
        return None
    return row if all(fits(row[name]) for name, fits in KINDS.items() if name in row) else None
