"""Callbacks for external viewers: TensorBoard and torch's profiler."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pushforward.errors import UserError
from pushforward.formats.files import write_atomically
from pushforward.registry import export
from pushforward.training.progress import Callback

if TYPE_CHECKING:
    from pushforward.training.trainer import Trainer


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return a row of metrics, without its step, as numbers by name, such as phases/forward and loss_by_t/0.0-0.1."""
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            numbers |= {f"{name}/{phase}": seconds for phase, seconds in value.items()}
        elif isinstance(value, list):
            named = ((f"{name}/{k / len(value):.1f}-{(k + 1) / len(value):.1f}", one) for k, one in enumerate(value))
            numbers |= {key: one for key, one in named if one is not None}
        elif name != "step":
            numbers[name] = value
    return numbers


@export("training.TensorBoard")
class TensorBoard(Callback):
    """Write the Trainer's metrics as TensorBoard event files; view them with `tensorboard --logdir runs`.

    Args:
        folder: output folder.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError('tensorboard is requested but not installed; run pip install "pushforward[log]".') from None
        self._make: Any = SummaryWriter
        self.folder = Path(folder)

    def on_start(self, trainer: "Trainer") -> None:
        # Events that an interrupted session wrote after its last checkpoint are purged.
        self._writer = self._make(str(self.folder), purge_step=trainer.step + 1 if trainer.step else None)

    def on_step(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        for name, value in scalars(metrics).items():
            self._writer.add_scalar(name, value, metrics["step"])

    on_validation = on_step

    def on_end(self, trainer: "Trainer") -> None:
        self._writer.close()


@export("training.Profile")
class Profile(Callback):
    """Trace some steps with torch's profiler, into a file for chrome://tracing or ui.perfetto.dev.

    Args:
        path: the file to write, ending in .json.
        steps: how many steps to trace.
        after: number of steps before tracing starts.

    Raises:
        UserError: fewer than one step.
    """

    def __init__(self, path: str | Path, steps: int = 5, after: int = 10) -> None:
        if steps < 1:
            raise UserError(f"profile is {steps}, but at least 1 step must be traced; 5 is a common choice.")
        self.path = Path(path)
        self._schedule = torch.profiler.schedule(wait=after, warmup=1, active=steps, repeat=1)

    def on_start(self, trainer: "Trainer") -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if trainer.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=kinds, schedule=self._schedule, on_trace_ready=self._write)
        self._profiler.start()

    def _write(self, profiler: torch.profiler.profile) -> None:
        write_atomically(self.path, lambda temporary: profiler.export_chrome_trace(str(temporary)))

    def on_every_step(self, trainer: "Trainer") -> None:
        self._profiler.step()

    def on_end(self, trainer: "Trainer") -> None:
        self._profiler.stop()
