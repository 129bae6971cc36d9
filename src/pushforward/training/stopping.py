"""Agreement of the processes of a run on a signal that one of them received."""

import signal
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pushforward.training.processes import Processes


class StopSignal:
    """Agree on stopping without blocking: a signal in any process at one step reaches all at the next (immediately for one process)."""

    def __init__(self, among: Processes) -> None:
        self.among = among
        self._asked: tuple[Any, Tensor] | None = None

    def agree(self, own: signal.Signals | None) -> signal.Signals | None:
        """Send a signal's number, or None, to the other processes; return what was received in the previous step."""
        if self.among.size == 1:
            return own
        known = 0
        if self._asked is not None:
            work, flag = self._asked
            work.wait()
            known = int(flag)
        flag = torch.tensor(own or 0)
        self._asked = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.among.words, async_op=True), flag
        return signal.Signals(known) if known else None

    def close(self) -> None:
        """Wait for pending messages."""
        if self._asked is not None:
            self._asked[0].wait()
            self._asked = None
