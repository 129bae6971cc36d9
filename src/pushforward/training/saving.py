"""Checkpoints of a run while it trains: by the first process, or of shards by all; synchronously, or in the background from a copy."""

import contextlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pushforward.formats.run import checkpoints
from pushforward.formats.shards import write_shards
from pushforward.training.best import Best
from pushforward.training.failures import saved_elsewhere
from pushforward.training.processes import Processes
from pushforward.training.shards import on_main
from pushforward.training.state import Snapshot

Parts = Sequence[tuple[Snapshot, bool]]
_NICENESS = 10  # added to that of the process: about a tenth of a core on which training computes, all of one on which it waits


class Saving:
    """Writes checkpoints, one after the other; every method is called by all processes.

    Args:
        out: run folder.
        best: the best weights, written with the next checkpoint.
        processes: the processes of the run.
        shards: number of processes that share one copy of the model, each of which writes its part; 0 if each has its own.
        background: whether they are written in a thread, from a copy in main memory.
        written: called with the folder of each checkpoint that has been written.
    """

    def __init__(
        self, out: Path | None, best: Best, processes: Processes, shards: int, background: bool, written: Callable[[Path], None]
    ) -> None:
        self.out, self.best, self.processes, self.sharded, self.background = out, best, processes, shards > 0, background
        self._on_written = written
        # Of all processes, and of those of the first copy.
        self._group, self._copy = [processes.background(one) if shards and out is not None else None for one in (processes.size, shards)]
        self._parts: Parts = ()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def save(self, now: Snapshot) -> Path:
        """Write a checkpoint of now, and of the best, after the last one, and return its folder; in the background immediately.

        Raises:
            OSError, CheckpointError, ProcessError: as `finish`.
        """
        assert self.out is not None
        self.finish()
        parts = self.best.due(now)
        if self.background and not self.sharded and self.processes.main:
            parts = [(snapshot.copied("cpu"), best) for snapshot, best in parts]
        self._parts = parts
        if self.background:
            self._thread = threading.Thread(target=self._write_behind, args=(self.out,), name="pushforward-checkpoint", daemon=True)
            self._thread.start()
        else:
            self._write(self.out)
            self.finish()
        return self._folder(now)

    def poll(self) -> None:
        """Finish a checkpoint that has been written, or has failed, in all processes by now."""
        if self._parts and all(self.processes.gather(self._thread is None or not self._thread.is_alive())):
            self.finish()

    def finish(self) -> None:
        """Wait for a checkpoint that is being written.

        Raises:
            OSError: the folder cannot be written.
            CheckpointError: the folder of shards cannot; they are saved elsewhere, and the message gives the path.
            ProcessError: another process failed.
        """
        if not self._parts:
            return
        self.join()
        parts, failure = self._parts, self._failure
        self._parts, self._failure = (), None
        try:
            with self.processes.agreed("saving"):
                if failure is not None:
                    raise failure
        except Exception:
            self.best.unwritten()
            if self.sharded and any(self.processes.gather(isinstance(failure, OSError))):
                self._rescue(parts, failure)
            raise
        self._on_written(self._folder(parts[-1][0]))

    def join(self) -> None:
        """Wait for this process's thread."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _folder(self, snapshot: Snapshot) -> Path:
        assert self.out is not None
        return checkpoints(self.out).path_of(snapshot.step)

    def _write_behind(self, out: Path) -> None:
        """Write in this thread, which leaves the cores to training where the system has a priority for each thread."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, thread := threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
        self._write(out)

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
        started: Iterator[Any] | None = None

        def share(folder: Path) -> Iterator[Any]:
            nonlocal started
            started = self._exchanged(folder, snapshot)
            return started

        try:
            if self.processes.main:
                snapshot.write(out, best, share)
        finally:  # what is left to exchange, so that no process waits for one that failed; for the others this is all
            for _ in self._exchanged(None, snapshot) if started is None else started:
                pass

    def _exchanged(self, folder: Path | None, snapshot: Snapshot) -> Iterator[tuple[str, Any]]:
        """Write this process's shards into the folder that the first process states, and yield the files of weights that it gathers."""
        place = [None if folder is None else str(folder)]
        dist.broadcast_object_list(place, src=0, group=self._group)
        if place[0] is None:
            return
        write_shards(Path(place[0]), snapshot.shards, self._group)
        if self._copy != dist.GroupMember.NON_GROUP_MEMBER:
            for name, tensors in snapshot.files():
                yield name, on_main(tensors, self._copy)

    def _rescue(self, parts: Parts, failure: BaseException | None) -> None:
        """Write shards into a folder of the system's temporary ones, and raise with its path; return if that fails too."""
        assert self.out is not None
        spare = Path(self.processes.gather(tempfile.mkdtemp(prefix="pushforward-") if self.processes.main else "")[0])
        self._parts = parts
        self._write(spare)
        rescued = not any(self.processes.gather(self._failure is not None))
        self._parts, self._failure = (), None
        if not self.processes.main:
            return
        if not rescued:
            shutil.rmtree(spare, ignore_errors=True)
            return
        raise saved_elsewhere(failure, self.out, f"step {parts[-1][0].step} is", checkpoints(spare).folder) from failure
