"""What a training run takes, from its first steps: memory by what takes it, seconds a step, the time of all, and a checkpoint's size.

The steps are those of a Trainer without a run folder, so that nothing is written.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from pushforward.data.dataset import Dataset
from pushforward.families.model import GenerativeModel
from pushforward.formats.wrapped import trained_state
from pushforward.training.progress import Callback
from pushforward.training.settings import Settings
from pushforward.training.trainer import Trainer
from pushforward.training.validation import DRAWS, FORWARD, schedule_of

LEAST, MOST, SECONDS = 3, 20, 2.0  # measured steps, and seconds after which there are enough of them
MOMENTS = 2  # of AdamW, for each parameter


@dataclass(frozen=True)
class Rehearsal:
    """What was measured of a run's first steps, and what follows of the whole run.

    Args:
        parameters: number of parameters.
        trained: number of those that are trained.
        memory: bytes by what takes them; activations are the most that was kept for a backward pass, and None if that is unknown.
        step: seconds of a step: the median, without the first one.
        measured: number of steps that were measured.
        training: seconds of all steps.
        validation: seconds of all validations at most, from the time of a step.
        may_end_early: whether validation without improvement ends the run.
        checkpoint: bytes of a checkpoint.
        peak: bytes that the device's allocator held at most; None on a CPU.
    """

    parameters: int
    trained: int
    memory: Mapping[str, int | None]
    step: float
    measured: int
    training: float
    validation: float
    may_end_early: bool
    checkpoint: int
    peak: int | None


class _EnoughError(Exception):
    """Ends the training, of which enough has been measured."""


class _Clock(Callback):
    """Measures steps; the time of the first one, which allocates and may compile, is not counted."""

    def __init__(self) -> None:
        self.started, self.ends = time.perf_counter(), list[float]()

    def on_every_step(self, trainer: Trainer) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        self.ends.append(time.perf_counter())
        taken = len(self.ends) - 1
        if taken >= MOST or (taken >= LEAST and self.ends[-1] - self.ends[0] > SECONDS):
            raise _EnoughError

    @property
    def seconds(self) -> list[float]:
        """Seconds of the measured steps; of a run of one step those of this one."""
        taken = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        return taken or [self.ends[0] - self.started]


class _FirstStep(Callback):
    def on_every_step(self, trainer: Trainer) -> None:
        raise _EnoughError


def rehearsed(
    model: GenerativeModel, settings: Settings, train: Any, validation: int, start: int = 0, examples: int | None = None
) -> Rehearsal:
    """Return what a run takes, from its first steps; the model is changed by them.

    Args:
        model: the model, on its device.
        settings: those of the run.
        train: its training data, or some of them.
        validation: number of its validation examples.
        start: the step from which it is continued.
        examples: number of its training examples; by default those in `train`.
    """
    kept = None if settings.compile else _kept(model, settings, train)
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock = _Clock()
    with contextlib.suppress(_EnoughError):
        Trainer(model, train, callbacks=[clock], **vars(settings)).fit()
    step = statistics.median(clock.seconds)
    schedule = schedule_of(settings, examples or len(train), validation)
    times = schedule.count(start)
    weights = sum(one.nbytes for one in (*model.parameters(), *model.buffers()))
    gradients = sum(one.nbytes for one in model.parameters() if one.requires_grad)
    frozen = sum(one.nbytes for one in model.parameters() if not one.requires_grad)
    average = weights - frozen if settings.ema else 0  # which shares what is frozen
    held = sum(one.nbytes for one in trained_state(model).values()) * (2 if settings.ema else 1)
    memory: dict[str, int | None] = {"weights": weights, "gradients": gradients, "optimiser": MOMENTS * gradients}
    memory |= {"average": average, "activations": kept}
    if type(train) is Dataset:
        memory["data"] = train.x.nbytes
    return Rehearsal(
        parameters=sum(one.numel() for one in model.parameters()),
        trained=sum(one.numel() for one in model.parameters() if one.requires_grad),
        memory=memory,
        step=step,
        measured=len(clock.seconds),
        training=step * max(0, settings.steps - start),
        validation=times * step * FORWARD * DRAWS * validation / settings.batch_size if validation else 0.0,
        may_end_early=bool(schedule.patience and validation),
        checkpoint=held + MOMENTS * gradients,
        peak=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def _kept(model: GenerativeModel, settings: Settings, train: Any) -> int | None:
    """Return the bytes of activations that a step keeps at most, or None where autograd cannot be watched (`torch.func`)."""
    trainer = Trainer(model, train, callbacks=[_FirstStep()], **vars(settings))
    watch = _Watch({one.untyped_storage()._cdata for one in model.parameters()})
    try:
        with watch.watched(), contextlib.suppress(_EnoughError):
            trainer.fit()
    except RuntimeError as error:
        if "hooks" not in str(error):
            raise
        return None
    return watch.most


class _Watch:
    """Counts the bytes of storages that are saved for the backward pass, while they are; those of the weights are not counted."""

    def __init__(self, own: set[int]) -> None:
        self.own, self.held, self.bytes, self.most = own, dict[int, int](), 0, 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        with saved_tensors_hooks(lambda tensor: _Saved(self, tensor), lambda saved: saved.tensor):
            yield

    def add(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place not in self.own:
            self.held[place] = self.held.get(place, 0) + 1
            if self.held[place] == 1:
                self.bytes += storage.nbytes()
                self.most = max(self.most, self.bytes)
        return place

    def remove(self, place: int, size: int) -> None:
        if place in self.own:
            return
        self.held[place] -= 1
        if not self.held[place]:
            del self.held[place]
            self.bytes -= size


class _Saved:
    """A tensor in autograd's graph, which is counted as long as the graph holds it."""

    def __init__(self, watch: _Watch, tensor: Tensor) -> None:
        self.watch, self.tensor = watch, tensor
        self.place, self.size = watch.add(tensor), tensor.untyped_storage().nbytes()

    def __del__(self) -> None:
        self.watch.remove(self.place, self.size)
