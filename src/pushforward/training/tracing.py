"""Callbacks for other people's viewers: TensorBoard, and torch's profiler."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pushforward.errors import UserError
from pushforward.registry import export
from pushforward.training.progress import Callback

if TYPE_CHECKING:
    from pushforward.training.trainer import Trainer


@export("training.TensorBoard")
class TensorBoard(Callback):
    """Write what the Trainer reports as TensorBoard's event files; look at them by `tensorboard --logdir runs`.

    Args:
        folder: where the files go.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError('tensorboard is not installed, but is asked for; install it by pip install "pushforward[log]".') from None
        self._make: Any = SummaryWriter
        self.folder = Path(folder)

    def on_start(self, trainer: "Trainer") -> None:
        # What an interrupted session wrote beyond its checkpoint is hidden by what comes now.
        self._writer = self._make(str(self.folder), purge_step=trainer.step + 1 if trainer.step else None)

    def on_step(self, trainer: "Trainer", metrics: dict[str, Any]) -> None:
        step = metrics["step"]
        for name, value in metrics.items():
            if isinstance(value, dict):
                for phase, seconds in value.items():
                    self._writer.add_scalar(f"{name}/{phase}", seconds, step)
            elif isinstance(value, list):
                for k, one in enumerate(value):
                    if one is not None:
                        self._writer.add_scalar(f"{name}/{k / len(value):.1f}-{(k + 1) / len(value):.1f}", one, step)
            elif name != "step":
                self._writer.add_scalar(name, value, step)

    on_validation = on_step

    def on_end(self, trainer: "Trainer") -> None:
        self._writer.close()


@export("training.Profile")
class Profile(Callback):
    """Trace some steps by torch's profiler, into a file that chrome://tracing and ui.perfetto.dev open.

    Args:
        path: the file to write, ending in .json.
        steps: how many steps to trace.
        after: steps before the first that is traced.

    Raises:
        UserError: fewer than one step.
    """

    def __init__(self, path: str | Path, steps: int = 5, after: int = 10) -> None:
        if steps < 1:
            raise UserError(f"profile is {steps}, but at least 1 step must be traced; 5 are usual.")
        self.path = Path(path)
        self._schedule = torch.profiler.schedule(wait=after, warmup=1, active=steps, repeat=1)

    def on_start(self, trainer: "Trainer") -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if trainer.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(
            activities=kinds, schedule=self._schedule, on_trace_ready=lambda one: one.export_chrome_trace(str(self.path))
        )
        self._profiler.start()

    def on_every_step(self, trainer: "Trainer") -> None:
        self._profiler.step()

    def on_end(self, trainer: "Trainer") -> None:
        self._profiler.stop()
