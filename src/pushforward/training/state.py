"""What a checkpoint holds of a training run, and how a run goes on from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pushforward.errors import CheckpointError, UserError
from pushforward.formats.config import to_plain
from pushforward.formats.model import RAW, WEIGHTS, load_weights, model_config, read_weights, versions, write_model
from pushforward.formats.run import checkpoints
from pushforward.formats.wrapped import own_state
from pushforward.training.step import Step

STATE = "training.pt"


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: steps done.
        best: lowest validation loss so far.
        seconds: time spent in training, over all its sessions.
    """

    step: int = 0
    best: float = math.inf
    seconds: float = 0.0


def save_state(out: Path, step: Step, progress: Progress, data: str | None, config: Mapping[str, Any], best: bool) -> Path:
    """Write a checkpoint: weights and configuration, and beside them the training state that only resuming reads.

    Args:
        out: run folder.
        step: holds model, average, optimiser, scaler and guard.
        progress: how far the run is.
        data: fingerprint of the training data, or None where it has none.
        config: more sections for config.yaml.
        best: whether these weights are the best on validation so far.
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

    def fill(folder: Path) -> None:
        if average is None:
            write_model(folder, whole, own_state(model))
        else:
            write_model(folder, whole, own_state(average.module), own_state(model))
        torch.save(state, folder / STATE)

    return checkpoints(out).write(progress.step, fill, best)


def newest(out: Path | None) -> Path:
    """Return the newest whole checkpoint of a run, and say so if it is not the newest.

    Raises:
        UserError: no run folder was given.
        CheckpointError: it has no whole checkpoint.
    """
    if out is None:
        raise UserError("resume=True needs the run folder to resume: give out=FOLDER.")
    saved = checkpoints(out)
    folder = saved.newest_whole()
    if folder is None:
        raise CheckpointError(f"{out} has no whole checkpoint to resume from; train anew with overwrite.")
    if folder.name != saved.names()[-1]:
        print(f"pushforward: {saved.folder / saved.names()[-1]} is not whole, so {folder.name} is resumed.")
    return folder


def restore(folder: Path, step: Step, data: str | None) -> Progress:
    """Put a checkpoint's state into model, average, optimiser, scaler and guard, and return how far it was.

    Raises:
        CheckpointError: it cannot be read, is of another architecture, or was trained on other data.
    """
    trained = folder / (RAW if (folder / RAW).exists() else WEIGHTS)
    load_weights(step.model, read_weights(trained), trained)
    try:
        state = torch.load(folder / STATE, map_location=step.device, weights_only=True)
        if data is not None and state["data"] not in (None, data):
            raise CheckpointError(
                f"the training data has changed since {folder} (fingerprint {state['data']}, now {data}); "
                "give the same data, or train anew with another --out."
            )
        step.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:
            step.scaler.load_state_dict(state["scaler"])
        for name, value in state["guard"].items():
            setattr(step.guard, name, value)
        progress = Progress(int(state["step"]), float(state["best"]), float(state["seconds"]))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{folder / STATE} cannot be resumed from: {error}.") from None
    if step.average is not None:
        load_weights(step.average.module, read_weights(folder / WEIGHTS), folder / WEIGHTS)
        step.average.n_averaged.fill_(progress.step - step.guard.skipped)
    return progress
