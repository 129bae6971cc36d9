"""The start and the end of a training run: its Trainer and config.yaml, and what is printed of its result."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pushforward import registry
from pushforward.cli.configuration import refuse_changes
from pushforward.cli.gaussian import behind_gaussian
from pushforward.cli.options import from_data
from pushforward.cli.output import is_quiet, result
from pushforward.cli.run import notify, run_config, write_config
from pushforward.data.dataset import Dataset
from pushforward.families.model import GenerativeModel
from pushforward.formats.config import to_plain
from pushforward.formats.model import model_config
from pushforward.formats.packages import stamped
from pushforward.schema import Schema
from pushforward.training.defaults import Defaults
from pushforward.training.grids import SampleGrid
from pushforward.training.processes import processes
from pushforward.training.progress import Callback, MetricsFile, ProgressBar
from pushforward.training.settings import Settings
from pushforward.training.trainer import Trainer

MOST = 20  # columns of a table that are printed


def start(
    preset: str,
    arguments: Mapping[str, Any],
    settings: Settings,
    train: Dataset,
    validation: Dataset | None,
    out: Path,
    *,
    section: Mapping[str, Any],
    device: torch.device,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    chosen: Defaults | None = None,
    grids: bool = True,
    sections: Mapping[str, Any] | None = None,
    prepare: Callable[[Any], None] | None = None,
) -> Trainer:
    """Return a Trainer for a preset on data, after creating its run folder, which `check_free` has accepted, and writing config.yaml.

    `sections` are further ones of the configuration; `prepare` changes the model before anything is made of it.
    """
    model = built(preset, arguments, settings, train, prepare)
    own = {"data": dict(section), **(sections or {})}
    always: list[Callback] = [SampleGrid(out / "samples")] if grids else []
    trainer = begin(
        preset, model, settings, train, validation, out, own, device=device, resume=resume, overwrite=overwrite,
        callbacks=[*always, *callbacks],
    )  # fmt: skip
    if trainer.processes.main:
        if chosen is not None and str(chosen):
            notify(str(chosen))
        if train.schema is not None and train.schema.columns:
            notify(_shown(train.schema))
    return trainer


def built(
    preset: str, arguments: Mapping[str, Any], settings: Settings, train: Dataset, prepare: Callable[[Any], None] | None = None
) -> GenerativeModel:
    """Return the model of a preset with what the data determines; its first weights are those of the seed."""
    torch.manual_seed(settings.seed)
    function = registry.get(f"models.{preset}")
    decided = {name: getattr(train, of) for name, of in from_data(function).items() if of is not None}
    model: GenerativeModel = function(**arguments, **decided)
    if prepare is not None:
        prepare(model)
    return model


def begin(
    name: str,
    model: GenerativeModel,
    settings: Settings,
    train: Any,
    validation: Any,
    out: Path,
    sections: Mapping[str, Any],
    *,
    device: torch.device,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """Return a Trainer for a model on data, after creating its run folder, which `check_free` has accepted, and writing config.yaml.

    `name` is what the line about its start calls the model; `sections` are those of the configuration besides the model's own.
    """
    among = processes(settings.timeout)
    own = dict(sections)
    described = {} if model.config is None else model_config(model)
    whole = stamped({**described, **own, "training": to_plain(vars(settings))})
    if resume:
        with among.watched():
            among.of_main(lambda: refuse_changes(run_config(out), whole, out), "checking the run folder")
    always = [*bars(), MetricsFile(out / "metrics.jsonl")]
    trainer = Trainer(
        model.to(device), train, validation=validation, out=out, resume=resume, overwrite=overwrite, callbacks=[*always, *callbacks],
        config=own, **vars(settings),
    )  # fmt: skip
    with among.watched():
        among.of_main(lambda: write_config(out, whole), "writing the configuration")
    if among.main:
        parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        where = f"{device}" if among.size == 1 else f"{among.size} processes on {device.type}"
        notify(f"{name} on {train!r}: {parameters:,} parameters, {where}, {settings.steps - trainer.step} steps into {out}")
    return trainer


def bars() -> list[Callback]:
    """Return the callback that shows the progress of training; none with --quiet."""
    return [] if is_quiet() else [ProgressBar()]


def _shown(schema: Schema) -> str:
    """Return the columns of a table with the scales that were chosen, the first of many."""
    lines = str(schema).splitlines()
    more = [f"and {len(lines) - MOST} columns more, listed in config.yaml"] if len(lines) > MOST else []
    return "\n".join(f"  {line}" for line in [*lines[:MOST], *more])


def finish(trainer: Trainer) -> int:
    """Print the result of training and what to do next, and return the exit status."""
    status = report(trainer)
    if status == 0 and trainer.processes.main:
        schema = trainer.model.schema
        form = "csv" if schema is not None and schema.columns else "png"
        run, model = shlex.quote(str(trainer.out)), trainer.model
        cond = " --cond test" if model.conditioning.shape is not None else ""  # which samples need
        print(f"next: pushforward evaluate {run}    pushforward sample {run} -n 100{cond} --out samples.{form}")
    return status


def report(trainer: Trainer) -> int:
    """Print the result of training and return the exit status."""
    if not trainer.processes.main:
        return 0 if trainer.stopped_by is None else 128 + int(trainer.stopped_by)
    result(
        trainer.out if trainer.stopped_by is None else "", run=trainer.out, step=trainer.step, steps=trainer.settings.steps,
        seconds=round(trainer.seconds, 3), skipped=trainer.skipped, ended_early=trainer.ended_early,
        stopped_by=None if trainer.stopped_by is None else trainer.stopped_by.name,
        best_validation_loss=trainer.best, best_step=trainer.progress.best_step,
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )  # fmt: skip
    if trainer.stopped_by is not None:
        print(f"pushforward: stopped at step {trainer.step}, which is saved; continue with --resume --out {trainer.out}.", file=sys.stderr)
        return 128 + int(trainer.stopped_by)
    unreadable = getattr(trainer.data, "unreadable", ())
    if unreadable:
        notify(f"{len(unreadable)} images could not be read and were replaced by others: {', '.join(unreadable[:5])}")
    if trainer.skipped:
        notify(f"{trainer.skipped} steps without a usable gradient were skipped.")
    shorter = trainer.ended_early and trainer.step < trainer.settings.steps
    early = f" of {trainer.settings.steps}, as validation no longer improved," if shorter else ""
    behind = behind_gaussian(trainer)
    if behind:
        print(behind)
    best = f"validation loss {trainer.best:.4f} at best"
    print(f"trained {trainer.step} steps{early} in {trainer.seconds:.0f} s; {best}; the run is {trainer.out}.")
    return 0
