"""The training state in a checkpoint, and how a run resumes from it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pushforward._files import regular
from pushforward.errors import CheckpointError, UserError
from pushforward.formats.config import dump_yaml, to_plain
from pushforward.formats.model import CONFIG, RAW, WEIGHTS, load_weights, model_config, read_weights, write_model, write_weights
from pushforward.formats.packages import stamped
from pushforward.formats.run import checkpoints
from pushforward.formats.saved_file import load_saved
from pushforward.formats.wrapped import own_state, trained_state
from pushforward.training.moments import named_moments, with_moments, without_moments
from pushforward.training.shards import part_of
from pushforward.training.step import Step

STATE = "training.pt"


@dataclass
class Progress:
    """Progress of a run.

    Args:
        step: completed steps.
        best: lowest validation loss so far.
        seconds: training time over all sessions.
        unvalidated: whether the validation of this step is still to be done: a signal cut it short, or metrics could not be written.
        stale: validations since the best one that count towards an early end.
        best_step: step of the lowest validation loss, or -1 before the first validation.
    """

    step: int = 0
    best: float = math.inf
    seconds: float = 0.0
    unvalidated: bool = False
    stale: int = 0
    best_step: int = -1


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds: weights, configuration, and the training state that is only read when resuming.

    Args:
        step: completed steps.
        config: all sections of config.yaml.
        weights: the averaged weights, or the trained ones if there is no average.
        raw: the trained weights, None if there is no average.
        state: progress, optimiser, scaler and guard.
        shards: the optimiser's moments where they are sharded, by parameter and moment.
    """

    step: int
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    raw: Mapping[str, Tensor] | None
    state: Mapping[str, Any]
    shards: Mapping[str, Tensor] = field(default_factory=dict)

    def copied(self, device: str | None = None) -> "Snapshot":
        """Return the snapshot with its own copy of all tensors, which further steps do not change; on another device if one is given."""

        def own(one: Tensor) -> Tensor:
            return one.detach().clone() if device is None else one.detach().to(device, copy=True)

        return replace(self, **tree_map_only(Tensor, own, {"weights": self.weights, "raw": self.raw, "state": self.state}))

    def files(self) -> list[tuple[str, Mapping[str, Tensor]]]:
        """Return the files of weights, by name."""
        return [(WEIGHTS, self.weights), *([] if self.raw is None else [(RAW, self.raw)])]

    def write(self, out: Path, best: bool, share: Callable[[Path], Iterable[tuple[str, Mapping[str, Tensor]]]] | None = None) -> Path:
        """Write it as a checkpoint of a run folder.

        Args:
            out: the run folder.
            best: whether its weights are the best on validation so far.
            share: of a sharded model: lets all processes write their shards into the checkpoint's folder, and yields the files of weights,
                gathered one after the other.
        """

        def fill(folder: Path) -> None:
            if share is None:
                write_model(folder, self.config, self.weights, self.raw)
            else:
                (folder / CONFIG).write_text(dump_yaml(self.config), encoding="utf-8")
                for name, tensors in share(folder):
                    write_weights(folder / name, tensors)
            torch.save(dict(self.state), folder / STATE)

        return checkpoints(out).write(self.step, fill, best)


def snapshot(step: Step, progress: Progress, data: str | None, config: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot of a run, which shares its tensors; of a sharded one it has this process's parts, in main memory.

    Args:
        step: holds model, average, optimiser, scaler and guard.
        progress: progress of the run.
        data: fingerprint of the training data, or None if it has none.
        config: more sections for config.yaml.
    """
    model, average = step.model, step.average
    own = model_config(model) if model.config is not None else {}
    whole = stamped({**own, **config, "training": to_plain(vars(step.settings))})
    state = {
        **vars(progress),
        "data": data,
        "optimiser": step.optimiser.state_dict(),
        "scaler": step.scaler.state_dict(),
        "guard": step.guard.state(),
    }
    states = [None if one is None else trained_state(one) for one in (model, None if average is None else average.module)]
    shards: dict[str, Tensor] = {}
    if step.sharded is not None:
        state["optimiser"] = without_moments(step.optimiser)
        copied = step.settings.async_checkpoints
        shards = step.sharded.on_host(named_moments(step.optimiser, model), copied)
        states = [None if one is None else step.sharded.on_host(one, copied) for one in states]
    trained, averaged = states
    assert trained is not None
    weights, raw = (trained, None) if averaged is None else (averaged, trained)
    return Snapshot(progress.step, whole, weights, raw, state, shards)


def newest(out: Path | None) -> Path:
    """Return the newest intact checkpoint of a run, with a message if a newer one is damaged.

    Raises:
        UserError: no run folder was given.
        CheckpointError: it has no intact checkpoint.
    """
    if out is None:
        raise UserError("resume=True needs the run folder to resume: give out=FOLDER.")
    saved = checkpoints(out)
    saved.recover()
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
    _load(step.model, trained)
    try:
        place = step.device if step.sharded is None else "cpu"
        state = load_saved(regular(folder / STATE, CheckpointError), place)
        if data is not None and state["data"] not in (None, data):
            raise CheckpointError(
                f"the training data has changed since {folder} (fingerprint {state['data']}, now {data}); "
                "use the same data, or start a new run with another --out."
            )
        step.optimiser.load_state_dict(with_moments(state["optimiser"], step.optimiser, step.model, folder))
        if state["scaler"]:
            step.scaler.load_state_dict(state["scaler"])
        for name, now in step.guard.state().items():
            setattr(step.guard, name, type(now)(state["guard"][name]))
        known = (int(state["step"]), float(state["best"]), float(state["seconds"]))
        progress = Progress(*known, bool(state.get("unvalidated", False)), int(state.get("stale", 0)), int(state.get("best_step", -1)))
    except CheckpointError:
        raise
    except Exception as error:  # unpickling, and the optimiser's state of another content, raise many types
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise CheckpointError(f"{folder / STATE} cannot be resumed from: {reason}.") from None
    if step.average is not None:
        _load(step.average.module, folder / WEIGHTS)
        step.average.n_averaged.fill_(progress.step - step.guard.skipped)
    return progress


def _load(model: torch.nn.Module, file: Path) -> None:
    """Load the weights of a file, of which a sharded model takes its part."""
    own = own_state(model)
    load_weights(model, {name: part_of(one, own[name]) if name in own else one for name, one in read_weights(file).items()}, file)
