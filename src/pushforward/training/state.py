"""The training state in a checkpoint, and how a run resumes from it."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward._files import regular
from pushforward.errors import CheckpointError, UserError
from pushforward.formats.config import to_plain
from pushforward.formats.model import RAW, WEIGHTS, load_weights, model_config, read_weights, versions, write_model
from pushforward.formats.run import checkpoints
from pushforward.formats.wrapped import trained_state
from pushforward.training.step import Step

STATE = "training.pt"


@dataclass
class Progress:
    """Progress of a run.

    Args:
        step: completed steps.
        best: lowest validation loss so far.
        seconds: training time over all sessions.
        unvalidated: whether a signal cut the validation of this step short.
        stale: validations since the best one that count towards an early end.
    """

    step: int = 0
    best: float = math.inf
    seconds: float = 0.0
    unvalidated: bool = False
    stale: int = 0


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: weights, configuration, and the training state that is only read when resuming.

    Args:
        step: completed steps.
        config: all sections of config.yaml.
        weights: the averaged weights, or the trained ones if there is no average.
        raw: the trained weights, None if there is no average.
        state: progress, optimiser, scaler and guard.
    """

    step: int
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    raw: Mapping[str, Tensor] | None
    state: Mapping[str, Any]

    def copied(self) -> "Snapshot":
        """Return the snapshot with its own copy of all tensors, which further steps do not change."""
        return copy.deepcopy(self)

    def write(self, out: Path, best: bool) -> Path:
        """Write it as a checkpoint of a run folder, `best` if its weights are the best on validation so far."""

        def fill(folder: Path) -> None:
            write_model(folder, self.config, self.weights, self.raw)
            torch.save(dict(self.state), folder / STATE)

        return checkpoints(out).write(self.step, fill, best)


def snapshot(step: Step, progress: Progress, data: str | None, config: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot of a run, which shares its tensors.

    Args:
        step: holds model, average, optimiser, scaler and guard.
        progress: progress of the run.
        data: fingerprint of the training data, or None if it has none.
        config: more sections for config.yaml.
    """
    model, average = step.model, step.average
    own = model_config(model) if model.config is not None else {}
    whole = {**own, **config, "training": to_plain(vars(step.settings)), "versions": versions()}
    state = {
        **vars(progress),
        "data": data,
        "optimiser": step.optimiser.state_dict(),
        "scaler": step.scaler.state_dict(),
        "guard": step.guard.state(),
    }
    raw = None if average is None else trained_state(model)
    return Snapshot(progress.step, whole, trained_state(model if average is None else average.module), raw, state)


def newest(out: Path | None) -> Path:
    """Return the newest intact checkpoint of a run, with a message if a newer one is damaged.

    Raises:
        UserError: no run folder was given.
        CheckpointError: it has no intact checkpoint.
    """
    if out is None:
        raise UserError("resume=True needs the run folder to resume: give out=FOLDER.")
    saved = checkpoints(out)
    folder = saved.newest_whole()
    if folder is None:
        raise CheckpointError(f"{out} has no intact checkpoint to resume from; start again with overwrite.")
    if folder.name != saved.names()[-1]:
        print(f"pushforward: {saved.folder / saved.names()[-1]} is damaged, so training resumes from {folder.name}.")
    return folder


def restore(folder: Path, step: Step, data: str | None) -> Progress:
    """Load a checkpoint's state into model, average, optimiser, scaler and guard, and return its progress.

    Raises:
        CheckpointError: it cannot be read, belongs to another architecture, or was trained on other data.
    """
    trained = folder / (RAW if (folder / RAW).exists() else WEIGHTS)
    load_weights(step.model, read_weights(trained), trained)
    try:
        state = torch.load(regular(folder / STATE, CheckpointError), map_location=step.device, weights_only=True)
        if data is not None and state["data"] not in (None, data):
            raise CheckpointError(
                f"the training data has changed since {folder} (fingerprint {state['data']}, now {data}); "
                "use the same data, or start a new run with another --out."
            )
        step.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:
            step.scaler.load_state_dict(state["scaler"])
        for name, now in step.guard.state().items():
            setattr(step.guard, name, type(now)(state["guard"][name]))
        known = (int(state["step"]), float(state["best"]), float(state["seconds"]))
        progress = Progress(*known, bool(state.get("unvalidated", False)), int(state.get("stale", 0)))
    except CheckpointError:
        raise
    except Exception as error:  # unpickling, and the optimiser's state of another content, raise many types
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise CheckpointError(f"{folder / STATE} cannot be resumed from: {reason}.") from None
    if step.average is not None:
        load_weights(step.average.module, read_weights(folder / WEIGHTS), folder / WEIGHTS)
        step.average.n_averaged.fill_(progress.step - step.guard.skipped)
    return progress
