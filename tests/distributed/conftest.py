"""Runs scenarios under torchrun, all that a number of processes is asked for in one launch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCENARIOS = Path(__file__).with_name("scenarios.py")
sys.path.insert(0, str(SCENARIOS.parent))


def torchrun(number, *arguments, timeout=120, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Return a function (number of processes, scenario) -> the results of each process."""
    done = {}

    def of(number, scenario):
        if number not in done:
            folder = tmp_path_factory.mktemp(f"processes-{number}")
            names = ["law", "law32", "unet", "moody", "augmented", "compiled", "verbs", "resume", "refusals"]
            run = torchrun(number, SCENARIOS, folder, *names)
            assert run.returncode == 0, run.stderr[-4000:]
            done[number] = folder
        return [torch.load(done[number] / scenario / f"{rank}.pt", weights_only=True) for rank in range(number)]

    return of
