"""How much memory there is, and what is too large for it: one sentence instead of a traceback, or of a process that the system kills.

Archives and compressed files state how large their content is. It is compared with the limit of `most_unpacked` before it is unpacked.
"""

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook

from pushforward.errors import DataError, OutOfMemoryError, UserError

T = TypeVar("T")
VARIABLE = "PUSHFORWARD_MAX_BYTES"  # the environment variable in place of the limit of unpacked data
ALWAYS, RATIO = 1 << 30, 100  # what is unpacked may have this many bytes, or be this many times as large as the file
MODULES = 20_000  # most parts of a network: a loop over 10^12 layers would end only when the memory does
# What torch's allocators and its arithmetic of sizes state. A shape whose bytes exceed 64 bits never reaches an allocator.
_MARKS = (
    "allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "multiplication overflow",
    "Overflow when unpacking",
)


def free_memory() -> float:
    """Return the bytes of main memory that this process may still use; infinity where the system does not state it."""
    return min(_available(), _of_group(Path("/sys/fs/cgroup")))


def _available() -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return int((lines.get("MemAvailable") or lines["MemFree"]).split()[0]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return math.inf


def _of_group(group: Path) -> float:
    """Return the free bytes of a container, whose limit /proc/meminfo does not show."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        most, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return most - used + int(facts["inactive_file"])  # cached files are given up first
    return math.inf


def most_unpacked(stored: int) -> float:
    """Return the most bytes to which a file of `stored` bytes may unpack.

    1 GiB or 100 times the file, whichever is more, and never more than the free memory; the environment variable PUSHFORWARD_MAX_BYTES, a
    number of bytes, replaces the limit.

    Raises:
        UserError: the variable is not a number of bytes.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return min(free_memory(), max(ALWAYS, RATIO * stored))
    if not given.isdecimal():
        raise UserError(f"{VARIABLE} is {given!r}, but it must be a number of bytes, such as {16 * ALWAYS}.")
    return int(given)


def check_unpacked(what: str, size: int, stored: int) -> None:
    """Raise if the content of a file is too large to be unpacked.

    Args:
        what: names the content in the message.
        size: its bytes when unpacked, as the file states.
        stored: bytes of the file.

    Raises:
        DataError: it exceeds `most_unpacked`.
    """
    most = most_unpacked(stored)
    if size > most:
        raise DataError(
            f"{what} unpacks to {size} bytes from a file of {stored}, but at most {most:.0f} are read; if this is intended and there is "
            f"memory for it, set the environment variable {VARIABLE} to a larger number of bytes."
        )


def check_room(what: str, size: int, remedy: str) -> None:
    """Raise if so many bytes of main memory are not free; systems that overcommit would kill the process instead of refusing.

    Raises:
        OutOfMemoryError: they are not.
    """
    if size > ALWAYS and size > free_memory():
        raise OutOfMemoryError(f"{what} needs {size:.3g} bytes, but {free_memory():.3g} bytes of main memory are free; {remedy}.")


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error is one of an allocator, of main memory or of a device, or of a size beyond 64 bits."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | TypeError) and any(mark in str(error) for mark in _MARKS)


@contextlib.contextmanager
def memory_errors(what: str, remedy: str, device: torch.device | str = "the device") -> Iterator[None]:
    """Context that converts errors of allocators to one sentence.

    Raises:
        OutOfMemoryError: there is not enough memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError, TypeError) as error:
        if not is_memory_error(error):
            raise
        where = f"the memory of {device}" if isinstance(error, torch.OutOfMemoryError) else "the main memory"
        raise OutOfMemoryError(f"{where} is too small for {what}; {remedy}.") from error


class _Large(Exception):
    """A network has more than ALWAYS bytes."""


def built_within_memory(what: str, make: Callable[[], T]) -> T:
    """Return the network that a function makes, within the bounds of `bounded_building`.

    One of more than ALWAYS bytes is made without values first, so that it is known whether all of it fits before gigabytes are filled.

    Raises:
        OutOfMemoryError: there is not enough memory.
        UserError: there are too many parts.
    """
    start = torch.get_rng_state()
    try:
        with bounded_building(what, upto=ALWAYS):
            return make()
    except _Large:
        torch.set_rng_state(start)
    try:
        with torch.device("meta"), bounded_building(what, meta=True):
            make()
    except (OutOfMemoryError, UserError):
        raise
    except Exception:  # of a network that reads its own weights while it is built, which meta tensors do not have
        pass
    torch.set_rng_state(start)
    with bounded_building(what):
        return make()


@contextlib.contextmanager
def bounded_building(what: str, upto: float = math.inf, meta: bool = False) -> Iterator[None]:
    """Context in which networks are built: their weights must fit into the free main memory, and their parts must be less than MODULES.

    Each weight is counted as it is registered, before it is filled. Those on other devices and fake tensors are not counted.

    Args:
        what: names the network in messages.
        upto: bytes; more of them raise `_Large`.
        meta: whether meta tensors are counted, in place of those in main memory.

    Raises:
        OutOfMemoryError: there is not enough memory.
        UserError: there are too many parts.
    """
    mine, counted, free = threading.get_ident(), {"bytes": 0, "parts": 0}, free_memory()
    place = "meta" if meta else "cpu"
    remedy = "give smaller numbers"

    def weight(module: nn.Module, name: str, one: Any) -> None:
        if threading.get_ident() != mine or one is None or one.device.type != place or isinstance(one, FakeTensor):
            return
        counted["bytes"] += one.numel() * one.element_size()
        if counted["bytes"] > free:
            raise OutOfMemoryError(f"{what} needs more than the {free:.3g} bytes of main memory that are free; {remedy}.")
        if counted["bytes"] > upto:
            raise _Large

    def part(module: nn.Module, name: str, one: Any) -> None:
        counted["parts"] += threading.get_ident() == mine
        if counted["parts"] > MODULES:
            raise UserError(f"{what} has more than {MODULES} layers and other parts; {remedy}.")

    with contextlib.ExitStack() as stack:
        stack.enter_context(memory_errors(what, remedy))
        for handle in (register_module_parameter_registration_hook(weight), register_module_module_registration_hook(part)):
            stack.callback(handle.remove)
        yield
