"""Checkpoints of a run while it trains: by the first process, or of shards by all; at once, or in the background from a copy."""

import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from pushforward.errors import CheckpointError
from pushforward.formats.run import checkpoints
from pushforward.formats.shards import write_shards
from pushforward.training.best import Best
from pushforward.training.processes import Processes
from pushforward.training.state import Snapshot

Parts = Sequence[tuple[Snapshot, bool]]


class Saving:
    """Writes checkpoints, one after the other; every method is called by all processes.

    Args:
        out: run folder.
        best: the best weights, written with the next checkpoint.
        processes: the processes of the run.
        sharded: whether each process writes its shards.
        background: whether they are written in a thread, from a copy in main memory.
    """

    def __init__(self, out: Path, best: Best, processes: Processes, sharded: bool, background: bool) -> None:
        self.out, self.best, self.processes, self.sharded, self.background = out, best, processes, sharded, background
        self._parts: Parts = ()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> bool:
        """Whether a checkpoint was started whose end is not known."""
        return bool(self._parts)

    def start(self, now: Snapshot) -> None:
        """Write a checkpoint of now, and of the best; returns at once if this is done in the background."""
        parts = self.best.due(now)
        if self.background and not self.sharded and self.processes.main:
            parts = [(snapshot.copied("cpu"), best) for snapshot, best in parts]
        self._parts, self._failure = parts, None
        if not self.background:
            self._write(self.out)
            return
        self._thread = threading.Thread(target=self._write, args=(self.out,), name="pushforward-checkpoint", daemon=True)
        self._thread.start()

    def written(self) -> bool:
        """Return whether the checkpoint has been written, or has failed, in all processes."""
        return all(self.processes.gather(self._thread is None or not self._thread.is_alive()))

    def finish(self) -> Path:
        """Wait for the checkpoint and return its folder.

        Raises:
            OSError: the folder cannot be written.
            CheckpointError: neither can shards; they are saved elsewhere, and the message gives the path.
            ProcessError: another process failed.
        """
        self.join()
        parts, self._parts = self._parts, ()
        try:
            with self.processes.agreed("saving"):
                if self._failure is not None:
                    raise self._failure
        except Exception:
            self.best.unwritten()
            if self.sharded and any(self.processes.gather(isinstance(self._failure, OSError))):
                self._rescue(parts)
            raise
        return checkpoints(self.out).folder / f"step-{parts[-1][0].step:06d}"

    def join(self) -> None:
        """Wait for this process's thread."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, out: Path) -> None:
        try:
            for snapshot, best in self._parts:
                if self.sharded:
                    self._write_together(out, snapshot, best)
                elif self.processes.main:
                    snapshot.write(out, best)
        except BaseException as error:  # raised by `finish`, in the Trainer's thread
            self._failure = error

    def _write_together(self, out: Path, snapshot: Snapshot, best: bool) -> None:
        """Write shards into the folder that the first process makes, and whose other files it writes."""
        group, told = self.processes.background(), False

        def share(folder: Path | None) -> None:
            nonlocal told
            told = True
            place = [None if folder is None else str(folder)]
            dist.broadcast_object_list(place, src=0, group=group)
            if place[0] is not None:
                write_shards(Path(place[0]), snapshot.shards, group)

        if not self.processes.main:
            share(None)
            return
        try:
            snapshot.write(out, best, share)
        finally:
            if not told:
                share(None)  # so that nobody waits for a folder that could not be made

    def _rescue(self, parts: Parts) -> None:
        """Write shards into a folder of the system's temporary ones, and raise with its path; return if that fails too."""
        spare = Path(self.processes.gather(tempfile.mkdtemp(prefix="pushforward-") if self.processes.main else "")[0])
        failure, self._parts, self._failure = self._failure, parts, None
        self._write(spare)
        rescued = not any(self.processes.gather(self._failure is not None))
        self._parts, self._failure = (), failure
        if not self.processes.main:
            return
        if not rescued:
            shutil.rmtree(spare, ignore_errors=True)
            return
        raise CheckpointError(
            f"cannot write {self.out}: {failure or 'another process failed'}; step {parts[-1][0].step} is saved in "
            f"{checkpoints(spare).folder}: free some space, copy what it holds into {self.out / 'checkpoints'}, and continue with --resume."
        ) from failure
