"""The training loop: steps, validation, metrics, checkpoints, in one process or many."""

import contextlib
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from torch import Tensor

from pushforward._checks import usable_device
from pushforward.data.pairs import Pairs
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.formats.lock import check_unlocked, locked
from pushforward.formats.run import begun, checkpoints, clear_run, mark_launch
from pushforward.formats.wrapped import own_state, unwrapped
from pushforward.registry import export
from pushforward.training.attached import attach, detach, settle, settles
from pushforward.training.best import Best, fits_in_memory
from pushforward.training.facts import facts
from pushforward.training.failures import diverged, loader_named, rescued, stopped
from pushforward.training.feed import Feed
from pushforward.training.given import as_dataset, check_augmented, check_trainable, checked_callbacks
from pushforward.training.optimisation import learning_rate
from pushforward.training.parallel import chosen
from pushforward.training.processes import processes
from pushforward.training.progress import Callback
from pushforward.training.run_state import RunState
from pushforward.training.saving import Saving
from pushforward.training.settings import GivenSettings, due, settings_of
from pushforward.training.signals import Signals
from pushforward.training.state import Progress, Snapshot, newest, restore, snapshot
from pushforward.training.step import Step
from pushforward.training.stopping import StopSignal
from pushforward.training.telemetry import LossOverTime, mean_losses, memory_mb
from pushforward.training.validation import schedule_of, validation_loss
from pushforward.types import HasFingerprint


@export("Trainer")
class Trainer(RunState):
    """Train a model for a number of steps, in one process or, under torchrun, in several.

    The data order and all random numbers are functions of (seed, step, block): a resumed run is bit-identical to an uninterrupted one,
    and the number of processes only changes the order of summation. (Dropout is the exception: its masks depend on the number of
    processes.) Under torchrun every process creates the same Trainer; only the first one writes files and prints.

    Args:
        model: any GenerativeModel; of one that is compiled, averaged or in DDP the model inside is trained (`compile=True` compiles its
            networks).
        data: training data: a `pushforward.data.Dataset`, any map-style set of (x, cond) or (x, cond, noise), a tensor or array x
            (N, *shape), or a DataFrame of pandas; of a DataLoader its set, as batches and order are the Trainer's.
            Where it is `data.Pairs`, a model's own samples, the model's units and data-dependent layers stay as they are.
        validation: data to choose the best weights on (`best_model`) and to end early by (the setting `patience`), of any kind that `data`
            may be, or None.
        out: run folder for metrics and checkpoints, or None to keep nothing.
        resume: whether to continue from the newest complete checkpoint of `out`; "auto" continues if there is one, and begins if not.
            When torchrun has restarted its processes, they continue the run that they began, whatever `resume` and `overwrite` are.
        overwrite: whether to replace a run that is in `out`; it is removed once the new one has been built. Other files stay.
        callbacks: called around steps (`training.Callback`), in the first process.
        device: training device; None leaves the model where it is. "cuda" assigns one GPU to each process of a machine.
        config: additional sections of config.yaml, such as the data source.
        settings: the fields of `training.settings.Settings`: steps, batch_size, lr, ...

    Raises:
        RunExistsError: `out` holds a run, or another process writes into it.
        UserError: settings out of range, data that is empty or does not fit the model, a model with nothing to train, or processes that
            differ or cannot share a batch.
        CheckpointError: nothing to resume from, or a checkpoint of another architecture or other data.

    Example:
        >>> import pushforward as pf, torch
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), shape=(2,))
        >>> pf.Trainer(model, torch.randn(256, 2), steps=3, batch_size=64).fit().step
        3
    """

    def __init__(
        self,
        model: GenerativeModel,
        data: Any,
        *,
        validation: Any = None,
        out: str | Path | None = None,
        resume: bool | Literal["auto"] = False,
        overwrite: bool = False,
        callbacks: Sequence[Callback] = (),
        device: str | torch.device | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[GivenSettings],
    ) -> None:
        self.settings, callbacks = settings_of(settings), checked_callbacks(callbacks)
        model = unwrapped(model)
        self.processes = processes(self.settings.timeout)
        with self.processes.watched(), self.processes.agreed("starting"):
            self.settings.check_shares(self.processes.size)
            check_augmented(data, model, self.settings)
            check_trainable(model)
            self.model = model if device is None else model.to(usable_device("device", self.processes.own_device(device)))
            self.data = as_dataset(data, "data", "training data", model)
            self.validation = None if validation is None else as_dataset(validation, "validation", "validation data", model)
            self.out, self.extra_config = None if out is None else Path(out), dict(config or {})
            if not (isinstance(resume, bool) or resume == "auto"):
                raise UserError(f"resume is {resume!r}, but it is True, False or 'auto'.")
            self.device, self.dtype = next(model.parameters()).device, model.dtype
            self._feed = Feed(self.data, self.settings, self.processes, self.device, self.dtype)
            self._fingerprint = self.data.fingerprint() if isinstance(self.data, HasFingerprint) else None
        with self.processes.watched():
            if self.processes.size > 1:
                self.processes.check_same(facts(self.model, self.settings, self.data, self.validation, self.out))
            if self.out is not None:
                resume, overwrite = self.processes.of_main(lambda: self._begun(resume, overwrite), "starting")
            with self.processes.agreed("starting"):
                if not resume and not isinstance(self.data, Pairs):  # pairs come from a model whose copy keeps its units
                    model.initialise(*self._feed.rows(4096))
                kind, group = chosen(self.model, self.settings, self.processes, self.device)
                share = self.settings.batch_size // (self.processes.size * self.settings.accumulate)
                rows = self._feed.rows(share) if self.processes.size > 1 and kind == "ddp" else None
                self._step = Step(self.model, self.settings, self.processes, self.device, rows, group)
            self.validating = schedule_of(self.settings, len(self.data), 0 if self.validation is None else len(self.validation))
            self.progress, self._best, sharded = Progress(), Best(), self._step.sharded
            shards, background = 0 if sharded is None else sharded.group, self.settings.async_checkpoints
            self._saving = Saving(self.out, self._best, self.processes, shards, background, lambda folder: self._notify("on_save", folder))
            if resume:
                folder = self.processes.of_main(lambda: newest(self.out), "resuming")
                with self.processes.agreed("resuming"):
                    self.progress = restore(folder, self._step, self._fingerprint)
                    if self.out is not None and self.processes.main:
                        checkpoints(self.out).point(self.step, self.progress.best_step)
            elif self.out is not None and self.processes.main:
                if overwrite:
                    clear_run(self.out)
                mark_launch(self.out, self.processes.launch)
        self.callbacks = callbacks if self.processes.main else []
        self.signals = Signals()
        self.stopped_by: signal.Signals | None = None

    def _begun(self, resume: bool | Literal["auto"], overwrite: bool) -> tuple[bool, bool]:
        assert self.out is not None
        check_unlocked(self.out)
        return begun(self.out, resume, overwrite, self.processes.launch)

    def fit(self) -> "Trainer":
        """Train to the last step, until validation no longer improves, or until Ctrl-C or SIGTERM, which complete the step and save.

        Returns:
            The trainer itself. If a signal ended the training, `stopped_by` is that signal, and a StoppedWarning gives the step.

        Raises:
            DivergedError: consecutive steps had no usable gradient; the message gives step, learning rate and the last good checkpoint.
            CheckpointError: the run folder cannot be written; the state is saved elsewhere, and the message gives its path.
            ProcessError: another process failed, hangs or has terminated.
            WorkerError: a worker that loads data ended or hangs.
        """
        self.model.train()
        over_time = LossOverTime()
        attach(self.model, self._step.averaged, over_time.add)
        lock = locked(self.out) if self.out is not None and self.processes.main else contextlib.nullcontext()
        with lock, self.signals.watched(), self.processes.watched(), loader_named(self.settings.workers):
            self._notify("on_start")
            try:
                self._loop(over_time)
                self._saving.finish()
                self._step.gather()
            except OSError as error:  # a full disk, a folder that became read-only
                if self.out is None or not self.processes.main or self._step.sharded is not None:
                    raise
                raise rescued(error, self.out, self._best, self._snapshot()) from error
            finally:
                self._saving.join()
                detach(self.model)
                self._notify("on_end")
        if self.stopped_by is not None and self.processes.main:
            warnings.warn(stopped(self.stopped_by, self.step, self.out), stacklevel=2)
        return self

    def _loop(self, over_time: LossOverTime) -> None:
        s, phases, stop = self.settings, self._step.phases, StopSignal(self.processes)
        loader = self._feed.start(self.step)
        losses, norms = list[Tensor](), list[float]()
        started = since = time.perf_counter()
        before, logged = self.seconds, self.step
        if self.progress.unvalidated:  # the signal that ended the last session cut this validation short
            self._validate()
            if self.out is not None and self.stopped_by is None:
                self.save()
        while self.step < s.steps and self.stopped_by is None and not self.ended_early:
            with phases("data", host=True):
                batch = self._feed.next(loader, self.signals)
            if batch is None:
                self.stopped_by = self.signals.received
                if self.out is not None:
                    self.save()
                break
            loss, norm, taken = self._step(self.step, *batch)
            if taken:
                losses.append(loss)
                norms.append(norm)
            self.progress.step += 1
            self.processes.note(self.step)
            self._notify("on_every_step")
            self.stopped_by = stop.agree(self.signals.received)
            validate = self.validation is not None and self.validating.due(self.step)
            save = self.step == s.steps or self.stopped_by is not None or due(self.step, s.checkpoint_every)
            if not taken:
                self._check_skips(norm, validate or save)
            if not (due(self.step, s.log_every) or validate or save):
                continue
            now = time.perf_counter()
            self.progress.seconds, self.progress.unvalidated = before + now - started, validate  # until it has been done
            if self.processes.size > 1:
                phases.add("all_reduce", self._step.all_reduce_seconds() * (self.step - logged))
            self._log(losses, norms, over_time, (self.step - logged) / max(now - since, 1e-9))
            losses, norms, logged = [], [], self.step
            self._saving.poll()
            if validate:
                with phases("validation"):
                    save |= self._validate() and (self._step.sharded is not None or not fits_in_memory(self.model))
            if self.out is not None and (save or self.ended_early or self.stopped_by is not None):
                with phases("save", host=True):
                    self.save()
            since = time.perf_counter()
        self._settle()
        stop.close()

    def _check_skips(self, norm: float, judging: bool) -> None:
        """End a run with too many consecutive skipped steps, and never evaluate or save broken weights."""
        broken = judging and not self._step.finite()
        if not self._step.guard.gives_up(self.settings.skip_limit, judging, broken):
            return
        self._saving.finish()
        if self.out is not None and self.processes.main:
            self._best.write_kept(self.out)
        raise diverged(self.step, self._step.guard, norm, learning_rate(self.settings, self.step - 1), self.out)

    def _log(self, losses: list[Tensor], norms: list[float], over_time: LossOverTime, rate: float) -> None:
        means, over = mean_losses(losses, norms, over_time, self.processes)
        metrics = {
            "step": self.step,
            **means,
            "lr": learning_rate(self.settings, self.step - 1),
            "steps_per_second": round(rate, 3),
            "samples_per_second": round(rate * self.settings.batch_size, 1),
            "seconds": round(self.seconds, 3),
            "skipped": self.skipped,
            "memory_mb": memory_mb(self.device),
            "phases": self._step.phases.take(),
        }
        self._notify("on_step", metrics | over)

    def _validate(self) -> bool:
        """Evaluate the averaged weights on validation data; return whether they are the best so far.

        A signal to any process cuts it short: it then counts for nothing, and is done again when the run resumes.
        """
        if self.validation is None:
            return False
        self._step.gather()
        loss = validation_loss(self.averaged_model, self.validation, self.settings, self.processes, self.signals, self._feed.placed)
        self.progress.unvalidated = isinstance(loss, signal.Signals)
        if isinstance(loss, signal.Signals):  # in all processes
            self.stopped_by = loss
            return False
        better, self.progress.best = loss < self.best, min(self.best, loss)
        self.progress.best_step = self.step if better else self.progress.best_step
        self.progress.stale = self.validating.stale(self.progress.stale, self.step, better)
        if better and self._step.sharded is not None:
            self._best.mark(self.step, own_state(self.averaged_model) if self.out is None else None)
        elif better and self.processes.main:
            self._best.keep(self._snapshot(), lasting=self.out is None or fits_in_memory(self.model))
        elif better and self.out is None:  # the other processes find them in no run folder
            self._best.mark(self.step, {name: one.clone() for name, one in own_state(self.averaged_model).items()})
        self._notify("on_validation", {"step": self.step, "validation_loss": loss})
        self._step.release()
        if self.processes.size == 1:
            self.stopped_by = self.signals.received
        return better

    def save(self) -> Path:
        """Start a checkpoint of this step, and of the best, for which all processes call it; return its folder.

        It has been written when this returns, or with `async_checkpoints` before the next one is and when `fit` returns.
        """
        return self._saving.save(self._snapshot())

    def _snapshot(self) -> Snapshot:
        self._settle()
        return snapshot(self._step, self.progress, self._fingerprint, self.extra_config)

    def _settle(self) -> None:
        if settles(self.model):
            settle([self.model, *([] if self._step.average is None else [self.averaged_model])], self._feed.rows)

    def _notify(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)
