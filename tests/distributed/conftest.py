"""All that a number of processes is asked for happens in one launch."""

import sys

import pytest
import torch
from launch import SCENARIOS, torchrun

from pushforward.training.compiling import obstacle

sys.path.insert(0, str(SCENARIOS.parent))
NAMES = ["law", "law32", "unet", "moody", "augmented", "reversible", "compiled", "verbs", "resume", "refusals", "command"]


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Return a function (number of processes, scenario) -> the results of each process."""
    done, names = {}, [name for name in NAMES if name != "compiled" or not obstacle()]

    def of(number, scenario):
        if scenario not in names:
            pytest.skip(obstacle())
        if number not in done:
            folder = tmp_path_factory.mktemp(f"processes-{number}")
            run = torchrun(number, SCENARIOS, folder, *names)
            assert run.returncode == 0, run.stderr[-4000:]
            done[number] = folder
        return [torch.load(done[number] / scenario / f"{rank}.pt", weights_only=True) for rank in range(number)]

    return of
