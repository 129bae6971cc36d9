"""Run folders (config.yaml, metrics.jsonl, checkpoints/, samples/, report.html): their checkpoints, and which folders are runs."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pushforward._files import text_of
from pushforward.errors import CheckpointError, ConfigError, NoCheckpointError, RunExistsError
from pushforward.formats.config import load_yaml
from pushforward.formats.files import MANIFEST, check_folder, write_folder, write_text

CONFIG = "config.yaml"
POINTERS = ("best", "last")
LAUNCH = ".launch"  # names the launch of torchrun that started a run
WANDB, MLFLOW = ".wandb-id", ".mlflow-id"  # a run's id in a tracker
FINETUNE = "finetune"  # the section of config.yaml that states what was fine-tuned, in place of a model of a preset
# What the library writes into a run folder; any other file is the user's and is never removed.
PICTURES = ("samples", "marginals", "corner", "loss", "density", "trajectory", "quality", "layers", "neighbours", "evaluations")
FILES = (
    *("metrics.jsonl", "report.html", "evaluation.json", "trace.json", *(f"{name}.png" for name in PICTURES)),
    *("checkpoints/last", "checkpoints/best", "samples/step-*.png", "tensorboard/events.*", LAUNCH, WANDB, MLFLOW),
)
FOLDERS = ("checkpoints", "samples", "tensorboard")


@dataclass(frozen=True)
class Checkpoints:
    """The folder checkpoints/ of a run: folders step-000500, and two small files, `last` and `best`, that point to one each."""

    folder: Path
    keep: int = 2

    def names(self) -> list[str]:
        """Return the names of all checkpoints, oldest first."""
        return sorted((path.name for path in self.folder.glob("step-*") if path.is_dir() and step_of(path.name) >= 0), key=step_of)

    def path_of(self, step: int) -> Path:
        """Return the folder of a step's checkpoint, whether it exists or not."""
        return self.folder / f"step-{step:06d}"

    def find(self, which: str) -> Path:
        """Return the folder of the checkpoint "best", "last" (also used if there is no best), or of this name; it is not read.

        Raises:
            NoCheckpointError: it does not exist; the message lists those that do.
        """
        name = which
        if which in POINTERS:
            name = self.pointed(which) or self.pointed("last") or (self.names() or [""])[-1]
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise NoCheckpointError(f"{self.folder} has no checkpoint {which!r}; there are: {known}.")
        return self.folder / name

    def path(self, which: str) -> Path:
        """Return the folder of a checkpoint, which is intact; see `find`.

        Raises:
            NoCheckpointError: it does not exist; the message lists those that do.
            CheckpointError: it is damaged; the message suggests the newest intact one.
        """
        folder = self.find(which)
        try:
            check_folder(folder)
        except CheckpointError as error:
            whole = self.newest_whole(before=folder.name)
            offer = f"an earlier one is intact: use {whole.name}" if whole else "no other checkpoint is intact: train again"
            raise CheckpointError(f"{str(error).rstrip('.')}; {offer}.") from None
        return folder

    def pointed(self, pointer: str) -> str | None:
        """Return the name of the checkpoint that "best" or "last" points to, or None if it points to none."""
        file = self.folder / pointer
        name = text_of(file, CheckpointError, errors="replace").strip() if file.is_file() else ""
        return name if name in self.names() else None

    def newest_whole(self, before: str | None = None) -> Path | None:
        """Return the newest intact checkpoint, older than `before` if given."""
        for name in reversed(self.names()):
            if before is None or step_of(name) < step_of(before):
                try:
                    check_folder(self.folder / name)
                except CheckpointError:
                    continue
                return self.folder / name
        return None

    def recover(self) -> None:
        """Move back a checkpoint whose process was killed while it replaced it by another one of the same step."""
        for left in self.folder.glob(".step-*.old"):
            folder = self.folder / left.name.removeprefix(".").partition(".")[0]
            if not folder.exists():
                left.rename(folder)

    def point(self, last: int, best: int) -> None:
        """Let `last` and `best` point to the checkpoints of these steps, if they exist: a process may be killed before it has done so."""
        for pointer, step in (("last", last), ("best", best)):
            name = self.path_of(step).name
            if name in self.names() and self.pointed(pointer) != name:
                write_text(self.folder / pointer, name + "\n")

    def write(self, step: int, fill: Callable[[Path], Any], best: bool) -> Path:
        """Write a checkpoint, update `last` (and `best`), and remove unreferenced ones except the newest `keep`."""
        folder = self.path_of(step)
        write_folder(folder, fill)
        for pointer in ("last", "best") if best else ("last",):
            write_text(self.folder / pointer, folder.name + "\n")
        pointed = {self.pointed(one) for one in POINTERS}
        for name in self.names()[: -self.keep]:
            if name not in pointed:
                shutil.rmtree(self.folder / name)
        for left in self.folder.glob(".step-*"):  # partial checkpoints of processes that were killed while writing
            shutil.rmtree(left, ignore_errors=True)
        return folder


def step_of(name: str) -> int:
    """Return the step of a checkpoint's name, such as step-000500, or -1 for any other name."""
    number = name.removeprefix("step-")
    return int(number) if name != number and number.isdecimal() else -1


def checkpoints(run: str | Path) -> Checkpoints:
    """Return the checkpoints of a run folder."""
    return Checkpoints(Path(run) / "checkpoints")


def check_free(out: Path, overwrite: bool) -> None:
    """Raise unless a new run may be written to a folder: one that does not exist or is empty, or a run that is to be replaced.

    Raises:
        RunExistsError: the folder is a file, is in use, or is no run; the message gives the alternatives.
    """
    if out.exists() and not out.is_dir():
        raise RunExistsError(f"{out} is a file; give a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise RunExistsError(
            f"{out} exists already; add --overwrite (overwrite=True) to replace it, --resume (resume=True) to continue it, "
            "or give another folder."
        )
    if not is_run(out):
        raise RunExistsError(
            f"{out} is not a run: its config.yaml has no sections model and training, or it has none; it is not "
            "overwritten, so give another folder."
        )


def check_start(out: Path, resume: bool, overwrite: bool) -> None:
    """Raise if a run that starts in a folder, without resuming or replacing the one in it, would lose checkpoints.

    Raises:
        RunExistsError: the folder holds a run, or is not one that may be replaced.
    """
    if resume:
        return
    if overwrite or (out.exists() and not out.is_dir()):
        check_free(out, overwrite)
    elif checkpoints(out).names():
        raise RunExistsError(f"{out} holds a run already; resume=True continues it, overwrite=True replaces it, or give another folder.")


def is_launched(out: Path, launch: str) -> bool:
    """Return whether the run in a folder was started by this launch of torchrun, before it restarted its processes.

    Args:
        out: the folder, whether it exists or not.
        launch: names of the launch and of this attempt, "" if there are none.
    """
    file = out / LAUNCH
    stored = file.read_text(encoding="utf-8", errors="replace").split() if launch and file.is_file() else []
    return stored[:1] == launch.split()[:1] and stored != launch.split() and bool(stored)


def begun(out: Path, resume: bool | Literal["auto"], overwrite: bool, launch: str) -> tuple[bool, bool]:
    """Return whether a run continues what is in its folder, and whether it replaces it, after checking that it may.

    The run that this launch of torchrun started is continued, and "auto" continues any; both begin where there is no checkpoint yet.

    Raises:
        RunExistsError: as `check_start`.
    """
    own = is_launched(out, launch)
    if (own or resume == "auto") and checkpoints(out).names():
        return True, False
    if own:
        return False, False
    check_start(out, resume is True, overwrite)
    return resume is True, overwrite and resume is not True


def mark_launch(out: Path, launch: str) -> None:
    """Note which launch of torchrun started the run of a folder, if one did; a folder that cannot be written stays as it is."""
    with contextlib.suppress(OSError):  # the first checkpoint will report it
        if launch:
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / LAUNCH, launch + "\n")


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run of this library: it has checkpoints, or a config.yaml as `pushforward train` writes it."""
    own = checkpoints(folder)  # others name folders step-1000 too, but without a manifest
    return any((own.folder / name / MANIFEST).exists() for name in own.names()) or _has_config(folder)


def _has_config(folder: Path) -> bool:
    try:
        config = load_yaml(folder / CONFIG)
    except (ConfigError, OSError):
        return False
    held = [name for name in ("model", FINETUNE, "training") if isinstance(config, dict) and isinstance(config.get(name), dict)]
    return "training" in held and len(held) > 1


def clear_run(folder: Path) -> None:
    """Remove what the library wrote into a run folder, and nothing else: of a link to another place the link, not what is there."""
    if _has_config(folder):
        (folder / CONFIG).unlink()
    for name in FOLDERS:
        if (folder / name).is_symlink():
            (folder / name).unlink()
    own = checkpoints(folder)
    for one in (*(own.folder / name for name in own.names()), *own.folder.glob(".step-*")):
        if one.is_symlink():
            one.unlink()
        else:
            shutil.rmtree(one)
    for pattern in FILES:
        for file in folder.glob(pattern):
            if not file.is_dir():
                file.unlink()
    for name in FOLDERS:
        with contextlib.suppress(OSError):  # there is no such folder, or it holds files of the user
            (folder / name).rmdir()
