"""Ctrl-C and SIGTERM during training: the step in progress is completed, a long phase between steps is cut short."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

HANDLED = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handled_by(handler: Callable[[int, object], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call a function at these signals; in other threads than the main one, which cannot, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


class _CutError(BaseException):
    """Leaves a phase; no Exception, so that no phase catches it."""


class Signals:
    """The signal that this process has received while it was watching, if any."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._may_cut = False

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Note signals instead of dying of them; a second Ctrl-C interrupts immediately."""
        return handled_by(self._handle, *HANDLED)

    def _handle(self, number: int, frame: object) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if self._may_cut:
            raise _CutError

    def run(self, phase: Callable[[], None]) -> bool:
        """Run a phase that may be left at any point, such as sampling; return whether no signal prevented it or cut it short."""
        if self.received is not None:
            return False
        try:
            self._may_cut = True
            phase()
            self._may_cut = False
        except _CutError:
            return False
        finally:
            self._may_cut = False
        return True
