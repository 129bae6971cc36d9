"""What the processes that torchrun starts agree upon before they have a process group: the name of this attempt, of the launch, and theirs.

The agent's store outlives its processes: after a restart it still holds the addresses of those that were terminated, under the names that
the new ones would use. TORCHELASTIC_RESTART_COUNT does not separate them, as only the machine whose process failed counts it.
"""

import contextlib
import os
import socket
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

from pushforward.errors import ProcessError

PAUSE = 0.01  # seconds between two looks at the store


def attempt(store: Any, rank: int, size: int, wait: timedelta) -> tuple[str, str]:
    """Return a name that the processes of this attempt share with no earlier one, and one that they share with all of this launch.

    Args:
        store: key-value store of the launch, without a prefix.
        rank: rank of this process.
        size: number of processes.
        wait: how long to wait for the others.

    Raises:
        ProcessError: some did not start in this time.
    """
    own = uuid.uuid4().hex
    try:
        name = _welcomed(store, rank, own, wait) if rank else _welcoming(store, size, own, wait)
        return name, store.compare_set("pushforward/launch", "", own).decode()
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ProcessError(f"process {rank} of {size} cannot reach process 0: {reason}; start all processes again.") from error


def _welcomed(store: Any, rank: int, own: str, wait: timedelta) -> str:
    """Introduce this process to the first one, and return its answer."""
    store.set(f"pushforward/introduced/{rank}", own)
    store.wait([f"pushforward/answer/{own}"], wait)
    name = str(store.get(f"pushforward/answer/{own}").decode())
    store.set(f"pushforward/joined/{name}/{rank}", "1")
    return name


def _welcoming(store: Any, size: int, own: str, wait: timedelta) -> str:
    """Answer each process, also if it follows one that introduced itself in an earlier attempt, until all have joined."""
    missing, answered, until = list(range(1, size)), dict[int, str](), time.monotonic() + wait.total_seconds()
    while missing:
        for rank in missing:
            if store.check([f"pushforward/introduced/{rank}"]):
                name = store.get(f"pushforward/introduced/{rank}").decode()
                if answered.get(rank) != name:
                    store.set(f"pushforward/answer/{name}", own)
                    answered[rank] = name
        missing = [rank for rank in missing if not store.check([f"pushforward/joined/{own}/{rank}"])]
        if missing and time.monotonic() > until:
            names = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            raise ProcessError(f"{names} of {size} did not start within {wait.total_seconds():.0f} s; start all processes again.")
        if missing:
            time.sleep(PAUSE)
    return own


def introduced() -> str:
    """Return where this process runs, for `runs_here` of other processes."""
    return f"{os.getpid()} {socket.gethostname()}"


def runs_here(who: str) -> bool:
    """Return whether a process is known to run, which only one on the same machine can find out."""
    number, _, host = who.partition(" ")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(number), 0)
    except OSError:
        return False
    with contextlib.suppress(OSError):  # Linux only: it has ended, but its parent has not asked for its status
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
