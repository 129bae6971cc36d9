"""The processes of a distributed run under torchrun: ranks, agreement between them, and detection of missing ones.

Metrics and errors are exchanged over gloo on the CPU, independently of the backend for gradients.
"""

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pushforward.errors import ProcessError, UserError
from pushforward.training.attempts import attempt, introduced, runs_here

NOTICE = 5.0  # seconds in which the remaining processes report themselves after a failure


@dataclass
class Processes:
    """This process within a distributed run; a single process if `size` is 1.

    Args:
        rank: rank of this process, from 0.
        size: number of processes (world size).
        local_rank: rank of this process on its machine, which is its device index.
        words: process group for metrics and errors, or None for a single process.
        store: key-value store whose entries outlive their process, or None.
        timeout: how long a process waits for the others.
        launch: names of the command that started the processes, the same after each restart by torchrun, and of this attempt, or "".
        remedy: what to do when a process is lost.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    words: Any = None
    store: Any = None
    timeout: timedelta = timedelta(seconds=600)
    launch: str = ""
    remedy: str = "start again with --resume"
    _last_note: float = field(default=0.0, init=False)
    _background: dict[int, Any] = field(default_factory=dict, init=False)

    def own_device(self, device: str | torch.device) -> str | torch.device:
        """Return the device of this process: "cuda" assigns one GPU to each process of a machine."""
        return f"cuda:{self.local_rank}" if str(device) == "cuda" and self.size > 1 else device

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints (rank 0)."""
        return self.rank == 0

    def background(self, first: int) -> Any:
        """Return a process group of the first processes, for a background thread; all processes must ask for it."""
        if first not in self._background:
            self._background[first] = dist.new_group(list(range(first)), backend="gloo", timeout=self.timeout)
        return self._background[first]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a float64 CPU tensor over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values, group=self.words)
        return values

    def gather(self, value: Any) -> list[Any]:
        """All-gather a small object: return that of each process, in the order of ranks."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value, group=self.words)
        return values

    def of_main(self, make: Callable[[], Any], doing: str) -> Any:
        """Return the result of `make`, which is only called on the first process.

        Raises:
            ProcessError: it failed there (the first process raises the error itself).
        """
        value = None
        with self.agreed(doing):
            value = make() if self.main else None
        return self.gather(value)[0]

    @contextlib.contextmanager
    def agreed(self, doing: str) -> Iterator[None]:
        """Barrier with error propagation: leave a block only when all processes have finished it; if one fails, all fail.

        Args:
            doing: description of the block, such as "saving", for the error of the other processes.

        Raises:
            ProcessError: the block failed in another process; the message gives its rank and error.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            own = error
        if self.size == 1:
            return
        failures = self.gather(None if own is None else (str(own) or type(own).__name__, getattr(own, "exit_status", 1)))
        if own is not None:
            raise own
        for rank, failure in enumerate(failures):
            if failure is not None:
                raise ProcessError(f"process {rank} of {self.size} failed while {doing}: {failure[0]}", exit_status=failure[1])

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Raise if the processes do not run the same thing.

        Args:
            facts: small plain values by name; nested mappings are allowed.

        Raises:
            UserError: a fact differs between processes; every process reports the first one with both values.
        """
        every = self.gather(_flat(facts))
        for rank, other in enumerate(every):
            for name in sorted(every[0].keys() | other.keys()):
                if every[0].get(name) != other.get(name):
                    raise UserError(
                        f"process {rank} of {self.size} has {name} {other.get(name)!r}, but process 0 has {every[0].get(name)!r}; "
                        "start all processes with the same command, files and versions."
                    )

    def note(self, step: int) -> None:
        """Store a heartbeat with the current step, at most once a second."""
        if self.store is not None and time.monotonic() - self._last_note > 1:
            self._last_note = time.monotonic()
            self.store.set(f"step/{self.rank}", str(step))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Report which process is missing if a collective in this block fails, and store the reason if this process fails.

        Raises:
            ProcessError: a process has terminated or did not respond within the timeout.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except ProcessError:
            raise
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and not any(word in str(error).lower() for word in ("gloo", "nccl")):
                self._leave(error)
                raise
            raise ProcessError(self._missing(error)) from error
        except BaseException as error:
            self._leave(error)
            raise

    def part(self, destroy: bool) -> None:
        """Release the group before Python exits: its threads may hold Python tensors, which would abort the process.

        Args:
            destroy: whether the group was created here and must be destroyed.
        """
        self.words = self.store = None
        self._background.clear()  # the last reference: the group's threads are joined
        if destroy:
            with contextlib.suppress(Exception):
                dist.destroy_process_group()

    def _leave(self, error: BaseException) -> None:
        if self.store is not None:
            with contextlib.suppress(RuntimeError):
                self.store.set(f"left/{self.rank}", str(error) or type(error).__name__)

    def _missing(self, error: RuntimeError) -> str:
        """Return a message with the processes that did not report the failure: they have terminated or hang."""
        if self.store is None:
            return f"another process has terminated or hangs, as process {self.rank} of {self.size} noticed: {_first_line(error)}."
        try:
            self.store.set(f"noticed/{self.rank}", "1")
            others = [rank for rank in range(self.size) if rank != self.rank]
            until = time.monotonic() + NOTICE
            left: list[int] = []
            while others and not left and time.monotonic() < until:
                others = [rank for rank in others if not self.store.check([f"noticed/{rank}"])]
                left = [rank for rank in others if self.store.check([f"left/{rank}"])]
                time.sleep(0.1)
            if "timed out" not in str(error).lower():  # those that run have not noticed yet; in a timeout it may be one of them that hangs
                others = [one for one in others if not runs_here(self.store.get(f"who/{one}").decode())] or others
            parts = [self._last_words(rank) for rank in left or others]
            self._outlive(set(range(self.size)) - {self.rank, *(left or others)})
        except RuntimeError:
            parts = ["process 0, which held the processes' store, has terminated"]
        what = "; ".join(parts) or "the connection between processes broke"
        return f"{what} (noticed by process {self.rank} of {self.size}); {self.remedy}."

    def _outlive(self, readers: set[int]) -> None:
        """Let the first process, which may hold the store, wait a moment for those that still read it."""
        self.store.set(f"read/{self.rank}", "1")
        until = time.monotonic() + NOTICE
        while self.main and time.monotonic() < until and not all(self.store.check([f"read/{rank}"]) for rank in readers):
            time.sleep(0.1)

    def _last_words(self, rank: int) -> str:
        if self.store.check([f"left/{rank}"]):
            return f"process {rank} ended: {self.store.get(f'left/{rank}').decode().rstrip('.')}"
        reached = f"its last heartbeat was at step {self.store.get(f'step/{rank}').decode()}" if self.store.check([f"step/{rank}"]) else ""
        return f"process {rank} has terminated or hangs" + (f", {reached}" if reached else " and never started")


_JOINED: list[Processes] = []  # at most one
_JOINING = threading.Lock()
_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let `processes` return this process only in a block: what is trained in it waits for no other process."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def processes(timeout: float = 600.0) -> Processes:
    """Return the processes of this run: those of torchrun or of an initialised process group, else this one only.

    Args:
        timeout: seconds that a process waits for the others before it fails and reports them; set by the first call.
    """
    if _ALONE.get() or not dist.is_available() or not (dist.is_initialized() or "TORCHELASTIC_RUN_ID" in os.environ):
        return Processes()
    with _JOINING:
        if not _JOINED:
            _JOINED.append(_join(timedelta(seconds=timeout)))
        return _JOINED[0]


def _join(wait: timedelta) -> Processes:
    """Initialise the process group, or add a gloo group if one is initialised already."""
    store, launch = None, ""
    if not dist.is_initialized():
        store, rank, size = next(iter(rendezvous("env://", timeout=wait)))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        name, launch = attempt(store, rank, size, wait)
        dist.init_process_group(backend, store=PrefixStore(f"group/{name}", store), rank=rank, world_size=size, timeout=wait)
        launch = f"{launch} {name}"
        store = PrefixStore(f"pushforward/{name}", store)
        store.set(f"who/{rank}", introduced())
    size = dist.get_world_size()
    words = dist.new_group(backend="gloo", timeout=wait) if size > 1 else None
    found = Processes(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", dist.get_rank())), words, store, wait, launch)
    del words
    atexit.register(found.part, destroy=store is not None)
    return found


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
