"""A worker of torchrun is killed: torchrun restarts the group, which continues by itself, on one machine and on two."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from pushforward.formats.model import load
from pushforward.formats.run import checkpoints

pytestmark = pytest.mark.faults
AGENT = [sys.executable, "-m", "torch.distributed.run", "--max-restarts", "3", "--monitor-interval", "0.1"]
TRAIN = ["-m", "pushforward", "train", "rectified_flow", "--data", "moons", "--data-options", "n", "200", "--batch-size", "32"]
TRAIN += ["--block", "8", "--warmup", "2", "--checkpoint-every", "100", "--validate-every", "500", "--steps", "1500"]
NET = ["net:mlp", "--net.hidden", "16", "16"]


def agent(log, *options, out, more=()):
    with log.open("w") as file:
        command = [*AGENT, *options, *TRAIN, "--out", str(out), *more, *NET]
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})


def started(log):
    """Return how many steps were left at each start of the workers."""
    return [int(steps) for steps in re.findall(r", (\d+) steps into", log.read_text())]


def kill_a_worker(of, out, log):
    """Kill a worker of an agent once the run has a checkpoint of its own."""
    deadline = time.monotonic() + 200
    while not (started(log) and checkpoints(out).names()):
        assert of.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    workers = subprocess.run(["pgrep", "-P", str(of.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)


def same(one, other):
    pairs = zip(load(one, "raw", "last").state_dict().values(), load(other, "raw", "last").state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert agent(folder / "log", "--standalone", "--nproc-per-node", "2", out=folder / "run").wait(300) == 0, (folder / "log").read_text()
    return folder / "run"


def test_the_workers_that_torchrun_restarts_continue_their_own_run(undisturbed, record, tmp_path):
    """Also if the command is to replace a former run, which they do once."""
    out, log = tmp_path / "run", tmp_path / "log"
    checkpoints(out).write(7, lambda folder: (folder / "of").write_text("another run"), best=True)
    running = agent(log, "--standalone", "--nproc-per-node", "2", out=out, more=["--overwrite"])
    while running.poll() is None and checkpoints(out).names() == ["step-000007"]:
        time.sleep(0.02)
    kill_a_worker(running, out, log)
    assert running.wait(300) == 0, log.read_text()
    first, second = started(log)
    assert first == 1500 > second
    assert second % 100 == 0
    assert same(out, undisturbed)
    record("torchrun restarts, one agent", every=100)


def test_two_agents_train_together_and_both_restart_when_one_loses_its_worker(undisturbed, record, tmp_path):
    out, logs = tmp_path / "run", [tmp_path / "log-0", tmp_path / "log-1"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--rdzv-id", "two"]
    running = [agent(log, *meeting, out=out) for log in logs]
    deadline = time.monotonic() + 200
    while not any(map(started, logs)):  # by the agent with rank 0, which may be either
        assert all(one.poll() is None for one in running), [log.read_text() for log in logs]
        assert time.monotonic() < deadline, [log.read_text() for log in logs]
        time.sleep(0.05)
    main = next(k for k, log in enumerate(logs) if started(log))
    while not checkpoints(out).names():
        time.sleep(0.02)
    workers = subprocess.run(["pgrep", "-P", str(running[1 - main].pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    assert [one.wait(300) for one in running] == [0, 0], [log.read_text() for log in logs]
    first, *later = [steps for log in logs for steps in started(log)]
    assert first == 1500 or 1500 in later
    assert len(later) == 1
    assert same(out, undisturbed)
    record("torchrun restarts, two agents", every=100)
