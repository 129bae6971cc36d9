"""The first process of torchrun leads the others: it alone runs a command, and all compute their rows of samples and densities in it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from pushforward._shares import Share
from pushforward.errors import ProcessError, PushforwardError
from pushforward.families.model import GenerativeModel
from pushforward.families.sharing import LEADER, Parts, Task
from pushforward.training.processes import Processes

Result = TypeVar("Result")
Make = Callable[[], GenerativeModel]


@dataclass(frozen=True)
class _Failure:
    """Why a process could not compute its part."""

    sentence: str
    exit_status: int = 1

    @staticmethod
    def of(error: BaseException) -> "_Failure":
        return _Failure(str(error) or type(error).__name__, getattr(error, "exit_status", 1))


class SharedError(PushforwardError):
    """What a process could not compute of what the first one asked for: the sentence that one process alone would end with."""

    def __init__(self, failure: _Failure) -> None:
        super().__init__(failure.sentence)
        self.exit_status = failure.exit_status


class _Leader:
    """The first process: what it asks for is sent to the others, and their parts are gathered."""

    def __init__(self, among: Processes) -> None:
        self.among, self.size, self.model = among, among.size, None

    def collect(self, task: Task, own: Callable[[], Parts]) -> list[Parts]:
        _broadcast(self.among, task)
        found = _attempted(own)
        answers = _gathered(self.among, found if not isinstance(found, Exception) else None)
        if isinstance(found, Exception):
            raise found
        for one in answers:
            if isinstance(one, _Failure):
                raise SharedError(one)
        return answers


def lead(among: Processes, make: Make, act: Callable[[Make], Result], doing: str) -> Result | None:
    """Return the result of `act` in the first process, whose model's samples and densities all processes compute; None in the others.

    Args:
        among: the processes; one alone simply acts.
        make: makes the model, in each process.
        act: what the first process does; it is called with what makes the model.
        doing: what that is, for the error of the others if it fails.

    Raises:
        ProcessError: the first process failed, in the others.
    """
    if among.size == 1:
        return act(make)
    if not among.main:
        _follow(among, make, doing)
        return None
    leader = _Leader(among)

    def made() -> GenerativeModel:
        leader.model = make()  # type: ignore[assignment]
        return leader.model  # type: ignore[return-value]

    led = LEADER.set(leader)
    try:
        result = act(made)
    except ProcessError:  # a process is lost, so that nothing can be sent to all
        raise
    except Exception as error:
        _broadcast(among, _Failure.of(error))
        raise
    finally:
        LEADER.reset(led)
    _broadcast(among)
    return result


def _follow(among: Processes, make: Make, doing: str) -> None:
    """Compute the parts of this process until the first one has ended."""
    share, model = Share(among.rank, among.size), functools.cache(make)
    while isinstance(task := _broadcast(among), Task):
        found = _attempted(functools.partial(_part, task, model, share))
        _gathered(among, _Failure.of(found) if isinstance(found, Exception) else found)
    if isinstance(task, _Failure):
        raise ProcessError(f"process 0 of {among.size} failed while {doing}: {task.sentence}", exit_status=task.exit_status)


def _part(task: Task, make: Make, share: Share) -> Parts:
    return task.part(make(), share)


def _attempted(act: Callable[[], Parts]) -> Parts | Exception:
    try:
        return act()
    except Exception as error:
        return error


def _broadcast(among: Processes, value: Any = None) -> Any:
    """Broadcast: return in all processes the object that the first one gives.

    Raises:
        ProcessError: a process is lost.
    """
    values = [value]
    with among.watched():
        dist.broadcast_object_list(values, src=0, group=among.words)
    return values[0]


def _gathered(among: Processes, value: Any) -> list[Any]:
    """Return the object of each process, in the order of ranks, in the first process, and nothing in the others.

    Raises:
        ProcessError: a process is lost.
    """
    values: list[Any] | None = [None] * among.size if among.main else None
    with among.watched():
        dist.gather_object(value, values, dst=0, group=among.words)
    return values or []
