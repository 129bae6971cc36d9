"""One comparison in a folder: models are trained in order, measured, and the table is written again after each."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward._files import bytes_of, json_of, text_of
from pushforward.cli.budget import VALIDATIONS, affordable
from pushforward.cli.contestants import Contestant
from pushforward.cli.run import CONFIG, notify, run_config
from pushforward.cli.starting import start
from pushforward.data.dataset import Dataset
from pushforward.errors import PushforwardError, UserError
from pushforward.evaluation.comparison_pictures import samples_picture
from pushforward.evaluation.measured import Measured, measure
from pushforward.evaluation.yardstick import Yardstick
from pushforward.formats.files import MANIFEST, write_text
from pushforward.formats.model import load, located
from pushforward.formats.run import checkpoints, step_of
from pushforward.training.progress import read_metrics

FAILURES = (PushforwardError, RuntimeError, ValueError, ArithmeticError)  # of one model, which do not end a comparison


class StoppedError(Exception):
    """A signal ended the training of a model, whose state is saved."""

    def __init__(self, signal: int) -> None:
        self.signal = signal
        super().__init__(f"stopped by signal {signal}")


@dataclass(frozen=True)
class Budget:
    """How long each model is trained: seconds, or steps."""

    seconds: float | None = None
    steps: int | None = None


@dataclass
class Training:
    """Trains the presets of a comparison into run folders, and finds them again."""

    folder: Path
    section: Mapping[str, Any]
    train: Dataset
    validation: Dataset
    device: torch.device
    budget: Budget
    seeds: Sequence[int]
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)

    def run_of(self, contestant: Contestant, seed: int) -> Path:
        """Return the run folder of a preset and seed."""
        return self.folder / "runs" / f"{contestant.name}-seed{seed}"

    def begun(self, contestants: Sequence[Contestant]) -> list[Path]:
        """Return the run folders of presets and seeds that exist."""
        runs = (self.run_of(one, seed) for one in contestants for seed in self.seeds)
        return [run for run in runs if (run / CONFIG).is_file()]

    def trained(self, contestant: Contestant, seed: int) -> Path:
        """Train a preset with a seed, or continue or find its run; return its folder.

        Raises:
            StoppedError: a signal ended it.
        """
        out = self.run_of(contestant, seed)
        newest = checkpoints(out).newest_whole()
        steps, every = self._steps_of(contestant)
        if newest is not None and step_of(newest.name) >= steps:
            return out
        settings = dataclasses.replace(contestant.settings, steps=steps, seed=seed, patience=0, validate_every=every)
        validation = self.validation if every else None
        trainer = start(
            contestant.preset, contestant.arguments, settings, self.train, validation, out, section=self.section, device=self.device,
            resume=newest is not None, overwrite=newest is None and out.is_dir() and any(out.iterdir()), chosen=contestant.chosen,
            grids=False,  # sampling would count as training time
        )  # fmt: skip
        trainer.fit()
        if trainer.stopped_by is not None:
            raise StoppedError(int(trainer.stopped_by))
        return out

    def timed(self, contestants: Sequence[Contestant]) -> dict[str, tuple[int, int]]:
        """Return the steps of presets, and those between validations, by their names; a preset whose steps fail is left out."""
        for one in contestants:
            with contextlib.suppress(*FAILURES):  # which is reported where it is trained
                self._steps_of(one)
        return self.steps

    def _steps_of(self, contestant: Contestant) -> tuple[int, int]:
        """Return the steps of all seeds of a preset, and those between validations or 0: those of a run that has begun, else measured."""
        if contestant.name not in self.steps:
            begun = self.begun([contestant])
            if begun:
                training = run_config(begun[0])["training"]
                self.steps[contestant.name] = int(training["steps"]), int(training["validate_every"])
            elif self.budget.steps is not None:
                self.steps[contestant.name] = self.budget.steps, max(1, self.budget.steps // VALIDATIONS)
            else:
                assert self.budget.seconds is not None
                notify(f"timing the steps of {contestant.label} ...")
                found = affordable(contestant, self.train, self.validation, self.device, self.budget.seconds)
                self.steps[contestant.name] = found
        return self.steps[contestant.name]


@dataclass(frozen=True)
class Measuring:
    """Measures run folders, and keeps what it has measured next to the table."""

    yardstick: Yardstick
    evaluations: Sequence[int]
    scored: int
    checkpoint: str
    device: torch.device
    folder: Path | None

    def measured(self, run: Path, label: str, picture: Path | None) -> Measured:
        """Return the measurements of a run, which are read if the same ones have been taken of the same weights."""
        weights = located(run, self.checkpoint)
        key = self._key(weights)
        kept = None if self.folder is None else self.folder / "measured" / f"{key}.json"
        before = None if kept is None else _read(kept)
        if kept is not None and before is not None:
            _place(kept, picture)
            return before
        model = load(run, checkpoint=self.checkpoint).to(self.device)
        if tuple(model.shape) != tuple(self.yardstick.test.shape):
            raise UserError(
                f"{run} is a model of events of shape {tuple(model.shape)}, but the data have "
                f"{tuple(self.yardstick.test.shape)}; compare models of events of one shape."
            )
        made: dict[int | None, tuple[Tensor, Tensor | None]] = {}
        found = measure(
            model, self.yardstick, evaluations=self.evaluations, scored=self.scored, report=lambda text: notify(f"{label}: {text} ..."),
            keep=lambda count, samples, labels: made.update({count: (samples, labels)}),
        )  # fmt: skip
        found = dataclasses.replace(found, **_cost(run, step_of(self.checkpoint)))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            samples_picture(made, kept.with_suffix(".png"), model.levels)
            _place(kept, picture)
            write_text(kept, json.dumps(found.plain(), indent=1) + "\n")
        return found

    def _key(self, weights: Path) -> str:
        """A digest of the weights and of how they are measured."""
        manifest = weights / MANIFEST
        state = bytes_of(manifest, UserError) if manifest.is_file() else str(weights.resolve()).encode()
        settings = (tuple(self.evaluations), self.scored, step_of(self.checkpoint), self.yardstick.size, self.yardstick.test.fingerprint())
        return hashlib.sha256(state + repr(settings).encode()).hexdigest()[:16]


def _cost(run: Path, step: int) -> dict[str, Any]:
    """Return the steps and seconds of a run up to a step, or of the whole run for a negative one; nothing if it has recorded none."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    if step >= 0:
        before = [row for row in rows if row["step"] <= step]
        return {"steps": step, "seconds": float(before[-1]["seconds"]) if before else None}
    return {"steps": int(rows[-1]["step"]), "seconds": float(rows[-1]["seconds"])} if rows else {}


def _read(kept: Path) -> Measured | None:
    """Return a measurement that is kept in a file, or None if there is none that can be read, so that it is taken again."""
    try:
        return Measured.from_plain(json_of(text_of(kept, UserError), finite=False)) if kept.is_file() else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _place(kept: Path, picture: Path | None) -> None:
    """Copy the picture that was drawn with a measurement to its place, or remove another's from there if none was drawn."""
    drawn = kept.with_suffix(".png")
    if picture is not None and drawn.is_file():
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(drawn, picture)
    elif picture is not None:
        picture.unlink(missing_ok=True)


def attempted(label: str, act: Callable[..., Measured], *arguments: Any) -> Measured:
    """Return a measurement, or one that holds only why it failed: one model's failure does not lose the others."""
    try:
        return act(*arguments)
    except FAILURES as error:
        sentence = (str(error).splitlines() or [type(error).__name__])[0]
        notify(f"{label} failed: {sentence}")
        return Measured(failure=f"failed: {sentence}")
