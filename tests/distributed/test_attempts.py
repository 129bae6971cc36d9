"""Processes that torchrun restarts find each other in a store that still holds what the terminated ones wrote."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from pushforward.errors import ProcessError
from pushforward.training.attempts import attempt, introduced, runs_here

WAIT = timedelta(seconds=20)


def names(store, size=3, late=()):
    def join(rank):
        time.sleep(0.05 if rank in late else 0)
        return attempt(store, rank, size, WAIT)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(join, range(size)))


@pytest.mark.parametrize("late", [(0,), (1,), (1, 2), (0, 2)])
def test_an_attempt_has_one_name_that_no_earlier_one_had_and_a_launch_keeps_its_own(late):
    store = HashStore()
    first, second = names(store), names(store, late=late)
    assert len(set(first)) == len(set(second)) == 1
    assert first[0][0] != second[0][0]
    assert first[0][1] == second[0][1]
    assert names(HashStore())[0][1] != first[0][1]


def test_an_attempt_of_which_only_some_joined_before_they_were_terminated_disturbs_nothing():
    store = HashStore()
    store.set("pushforward/introduced/1", "of a process that is no more")
    assert len(set(names(store, late=(1,)))) == 1


def test_a_process_that_does_not_start_is_named():
    with pytest.raises(ProcessError, match=r"processes 1, 2 of 3 did not start within 0 s; start all processes again"):
        attempt(HashStore(), 0, 3, timedelta(seconds=0.1))
    with pytest.raises(ProcessError, match=r"process 1 of 3 cannot reach process 0: .*; start all processes again"):
        attempt(HashStore(), 1, 3, timedelta(seconds=0.1))


def test_whether_a_process_runs_is_known_on_its_own_machine_only():
    assert runs_here(introduced())
    assert not runs_here(f"{os.getpid()} another-machine")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    host = introduced().partition(" ")[2]
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its status has not been read
    assert not runs_here(f"{ended.pid} {host}")
    ended.wait()
    assert not runs_here(f"{ended.pid} {host}")
