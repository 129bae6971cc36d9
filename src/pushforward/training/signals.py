"""Ctrl-C and SIGTERM during training: the step in progress is completed, a long phase between steps is cut short."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

HANDLED = (signal.SIGINT, signal.SIGTERM)


class _CutError(BaseException):
    """Leaves a phase; no Exception, so that no phase catches it."""


class Signals:
    """The signal that this process has received while it was watching, if any."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._may_cut = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note signals instead of dying of them; a second Ctrl-C interrupts immediately. Only the main thread can watch."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in HANDLED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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
