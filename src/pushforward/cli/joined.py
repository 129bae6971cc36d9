"""The processes of torchrun in commands that are no training: one error ends all, and the first process writes and prints."""

import contextlib
from collections.abc import Iterator

from pushforward.training.processes import Processes, processes

# Seconds: the others wait while the first process measures and draws. One that has ended is noticed immediately; this is for a hanging one.
WAIT = 86_400.0


@contextlib.contextmanager
def joined(wait: float = WAIT, remedy: str = "start the command again") -> Iterator[Processes]:
    """Yield the processes of this command; a failure of one in the block is reported to the others.

    Args:
        wait: how long a process waits for the others, in seconds.
        remedy: what to do when one is lost.
    """
    among = processes(wait)
    among.remedy = remedy
    with among.watched():
        yield among
