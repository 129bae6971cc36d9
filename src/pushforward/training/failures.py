"""What is saved, and what the error states, when a run cannot continue."""

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pushforward.errors import CheckpointError, DivergedError, StoppedWarning, WorkerError
from pushforward.formats.run import checkpoints
from pushforward.training.best import Best
from pushforward.training.guard import Guard
from pushforward.training.state import Snapshot


def rescued(error: OSError, out: Path, best: Best, now: Snapshot) -> Exception:
    """Save a run elsewhere when its folder cannot be written, and return the error with the path; the error itself if that fails too."""
    spare = Path(tempfile.mkdtemp(prefix="pushforward-"))
    try:
        best.write(spare, now)
    except OSError:
        shutil.rmtree(spare, ignore_errors=True)
        return error
    saved = checkpoints(spare)
    what = f"step {now.step} is" if saved.pointed("best") is None else f"step {now.step} and the best weights are"
    return saved_elsewhere(error, out, what, saved.folder)


def saved_elsewhere(error: BaseException | None, out: Path, what: str, folder: Path) -> CheckpointError:
    """Return the error that a run folder could not be written (in another process if no error is given), and where a run is saved."""
    place, reason = getattr(error, "filename", None) or out, getattr(error, "strerror", None) or error or "another process failed"
    return CheckpointError(
        f"cannot write {place}: {reason}; {what} saved in {folder}: "
        f"free some space, copy what it holds into {out / 'checkpoints'}, and continue with --resume."
    )


def diverged(step: int, guard: Guard, norm: float, lr: float, out: Path | None) -> DivergedError:
    """Return the error of a run whose last steps had no usable gradient.

    Args:
        step: completed steps.
        guard: knows how many steps in a row were skipped, and the usual gradient norm.
        norm: the last step's gradient norm.
        lr: the last step's learning rate.
        out: run folder, or None.
    """
    good = checkpoints(out).newest_whole() if out is not None else None
    cure = "no checkpoint was written before; start again" if good is None else f"the last good checkpoint is {good}; resume from it"
    return DivergedError(
        f"up to step {step}, {guard.in_row} step{'s' if guard.in_row > 1 else ''} in a row had no usable gradient (the last one's norm is "
        f"{norm:.3g}, where {guard.usual:.3g} is usual and the learning rate is {lr:.3g}); {cure} with a smaller "
        "--lr or --clip."
    )


def stopped(by: signal.Signals, step: int, out: Path | None) -> StoppedWarning:
    """Return the warning that a signal ended a run, and how to continue it."""
    where = "nothing was saved, as there is no out" if out is None else f"{out} is saved, and resume=True continues it"
    return StoppedWarning(f"{by.name} stopped training at step {step}; {where}.")


@contextlib.contextmanager
def loader_named(workers: int) -> Iterator[None]:
    """Raise an error that states what to do if a worker of the loader ends, which torch reports between any two lines, or hangs.

    Raises:
        WorkerError: it did.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader "):
            raise
        raise WorkerError(
            f"a worker that loads data has ended or does not respond: {str(error).splitlines()[0].rstrip('. ')}; if memory was short, use "
            f"fewer than --workers {workers}, and continue with --resume."
        ) from error
