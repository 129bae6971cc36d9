"""The processes that train together under torchrun: who they are, what they agree on, and which of them is missing when one is.

Numbers and errors are exchanged over gloo on the CPU, whatever carries the gradients.
"""

import atexit
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pushforward.errors import ProcessError, UserError

NOTICE = 5.0  # seconds in which those still there make themselves known after a failure


@dataclass
class Processes:
    """This process among those that train together; one alone when `size` is 1.

    Args:
        rank: number of this process, from 0.
        size: how many there are.
        local_rank: number of this process on its machine: the index of its device.
        words: group over which numbers and errors are exchanged, or None for one alone.
        store: where processes leave notes that outlive them, or None.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    words: Any = None
    store: Any = None
    _last_note: float = field(default=0.0, init=False)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a float64 CPU tensor over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values, group=self.words)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return the small object that each process gives, in the order of ranks."""
        values: list[Any] = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value, group=self.words)
        return values

    def of_main(self, make: Callable[[], Any], doing: str) -> Any:
        """Return what `make` returns on the first process, which alone calls it.

        Raises:
            ProcessError: it failed there (the first process raises the error itself).
        """
        value = None
        with self.agreed(doing):
            value = make() if self.main else None
        return self.gather(value)[0]

    @contextlib.contextmanager
    def agreed(self, doing: str) -> Iterator[None]:
        """Let every process leave a block only when all have come through it; if it fails in one, it fails in all.

        Args:
            doing: what the block does, as in "saving": part of the others' error.

        Raises:
            ProcessError: the block failed in another process, which is named with its error.
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
        said = self.gather(None if own is None else (str(own) or type(own).__name__, getattr(own, "exit_status", 1)))
        if own is not None:
            raise own
        for rank, failure in enumerate(said):
            if failure is not None:
                raise ProcessError(f"process {rank} of {self.size} failed while {doing}: {failure[0]}", exit_status=failure[1])

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Refuse processes that do not run the same thing.

        Args:
            facts: small plain values by name, nested mappings allowed.

        Raises:
            UserError: a fact differs between processes; the first is named with both values, on every process.
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
        """Leave a sign of life and the step that was reached, at most once a second."""
        if self.store is not None and time.monotonic() - self._last_note > 1:
            self._last_note = time.monotonic()
            self.store.set(f"step/{self.rank}", str(step))

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Say which process is missing when a collective in this block fails, and leave the reason when this process does.

        Raises:
            ProcessError: a process is gone, or was not heard from within the timeout.
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
        """Let go of the group before Python ends, since its threads may still hold tensors of Python's, which abort the process then.

        Args:
            destroy: whether the group was made here and ends with this.
        """
        self.words = self.store = None  # the last reference: the group's threads are joined
        if destroy:
            with contextlib.suppress(Exception):
                dist.destroy_process_group()

    def _leave(self, error: BaseException) -> None:
        if self.store is not None:
            with contextlib.suppress(RuntimeError):
                self.store.set(f"left/{self.rank}", str(error) or type(error).__name__)

    def _missing(self, error: RuntimeError) -> str:
        """Return a sentence that names the processes which do not notice the failure: those are gone or hang."""
        if self.store is None:
            return f"another process is gone or hangs, as process {self.rank} of {self.size} noticed: {_first_line(error)}."
        try:
            self.store.set(f"noticed/{self.rank}", "1")
            others = [rank for rank in range(self.size) if rank != self.rank]
            until = time.monotonic() + NOTICE
            while others and time.monotonic() < until:
                others = [rank for rank in others if not self.store.check([f"noticed/{rank}"])]
                if any(self.store.check([f"left/{rank}"]) for rank in others):
                    break
                time.sleep(0.1)
            parts = [self._last_words(rank) for rank in others]
        except RuntimeError:
            parts = ["process 0, which kept the processes' notes, is gone"]
        what = "; ".join(parts) or "the connection between processes broke"
        return f"{what} (noticed by process {self.rank} of {self.size}); start again with --resume."

    def _last_words(self, rank: int) -> str:
        if self.store.check([f"left/{rank}"]):
            return f"process {rank} ended: {self.store.get(f'left/{rank}').decode().rstrip('.')}"
        reached = f"its last sign was at step {self.store.get(f'step/{rank}').decode()}" if self.store.check([f"step/{rank}"]) else ""
        return f"process {rank} is gone or hangs" + (f", {reached}" if reached else " and never began")


_JOINED: list[Processes] = []  # at most one


def processes(timeout: float = 600.0) -> Processes:
    """Return the processes of this run: those of torchrun, or of a group that is initialised already, else this one alone.

    Args:
        timeout: seconds that a process waits for the others before it gives up and names them; the first call decides.
    """
    if not dist.is_available() or not (dist.is_initialized() or "TORCHELASTIC_RUN_ID" in os.environ):
        return Processes()
    if not _JOINED:
        _JOINED.append(_join(timedelta(seconds=timeout)))
    return _JOINED[0]


def _join(wait: timedelta) -> Processes:
    """Meet the other processes, or make a group of words for those that have met already."""
    store = None
    if not dist.is_initialized():
        store, rank, size = next(iter(rendezvous("env://", timeout=wait)))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size, timeout=wait)
        store = PrefixStore(f"pushforward/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    size = dist.get_world_size()
    words = dist.new_group(backend="gloo", timeout=wait) if size > 1 else None
    found = Processes(dist.get_rank(), size, int(os.environ.get("LOCAL_RANK", dist.get_rank())), words, store)
    del words
    atexit.register(found.part, destroy=store is not None)
    return found


class StopSignal:
    """Agree on stopping without waiting: what any process said at one step, all know at the next (one alone knows at once)."""

    def __init__(self, among: Processes) -> None:
        self.among = among
        self._asked: tuple[Any, Tensor] | None = None

    def agree(self, said: int | None) -> int | None:
        """Tell the others the number of a signal, or None; return what was told at the step before."""
        if self.among.size == 1:
            return said
        known = 0
        if self._asked is not None:
            work, flag = self._asked
            work.wait()
            known = int(flag)
        flag = torch.tensor(said or 0)
        self._asked = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.among.words, async_op=True), flag
        return known or None

    def close(self) -> None:
        """Wait for what is still on its way."""
        if self._asked is not None:
            self._asked[0].wait()
            self._asked = None


def code_digest() -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of this package's source."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
