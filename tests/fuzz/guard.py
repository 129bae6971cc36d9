"""A forked process with bounded memory and time, in which readers are called: a crash, a hang or a bomb ends it and not the tests."""

import contextlib
import faulthandler
import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from pushforward.errors import PushforwardError
from pushforward.registry import UnknownNameError

ALLOWED = (PushforwardError, UnknownNameError)
SECONDS, BYTES = 20, 1 << 30  # for one mutant; bytes beyond those of the process when it starts
UNPACKED = 64 << 20  # the library's own limit in these tests
LONGEST = 2000  # characters of a message, which is one sentence


class _Slow(BaseException):
    pass


def escapes(calls: Iterable[tuple[str, Callable[[], object]]], log: Path) -> list[str]:
    """Return what goes wrong in calls that must return or raise an error of the library, each by its name.

    Args:
        calls: (name, function); the iterable is advanced in the child process.
        log: a file to which the child writes.
    """
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            _run(calls, log)
            status = 0
        os._exit(status)
    _, status = os.waitpid(child, 0)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\x1e")
    found = [line.removeprefix("!") for line in lines if line.startswith("!")]
    if status:
        found.append(f"the process ended with status {status} after {' '.join(lines[-2:])}")
    return found


def _run(calls: Iterable[tuple[str, Callable[[], object]]], log: Path) -> None:
    def alarm(number: int, frame: object) -> None:
        raise _Slow

    signal.signal(signal.SIGALRM, alarm)
    os.environ["PUSHFORWARD_MAX_BYTES"] = str(UNPACKED)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    with log.open("w", encoding="utf-8", errors="replace") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, call in calls:
            file.write(f"{name}\x1e")
            file.flush()
            faulthandler.dump_traceback_later(2 * SECONDS, exit=True, file=file)  # for code that no signal reaches
            problem = _problem(call)
            faulthandler.cancel_dump_traceback_later()
            if problem:
                file.write(f"!{name}: {problem}\x1e")
                file.flush()


def _problem(call: Callable[[], object]) -> str:
    signal.alarm(SECONDS)
    try:
        call()
    except ALLOWED as error:
        message = str(error)
        if not message.strip() or len(message) > LONGEST:
            return f"the message of {type(error).__name__} has {len(message)} characters: {message[:300]}"
    except _Slow:
        return f"it takes more than {SECONDS} s"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(one.filename).name}:{one.lineno}" for one in place if "pushforward" in one.filename]
        return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]} (at {' > '.join(ours[-3:])})"
    finally:
        signal.alarm(0)
    return ""
