"""What a number of processes is asked for in a file happens in one launch, what is slow in another; compiled networks have their own.

A file is run by one worker of pytest, which keeps what its launches gave.
"""

import sys

import pytest
import torch
from launch import SCENARIOS, torchrun

from pushforward.training.compiling import obstacle

sys.path.insert(0, str(SCENARIOS.parent))
LAUNCHES = (
    ["law", "unet", "verbs", "resume", "refusals", "best", "command", "sharded_law", "sharded_resume", "sharded_refusals"],
    ["law32", "moody", "augmented", "reversible", "few_steps", "cut"],
    ["sharded_kinds", "sharded_more"],
    ["tar_shards"],
)


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Return a function (number of processes, scenario) -> the results of each process; the slow compiler has a launch of its own."""
    done = {}

    def of(number, scenario):
        names = next((names for names in LAUNCHES if scenario in names), [scenario])
        if scenario == "compiled" and obstacle():
            pytest.skip(obstacle())
        if (number, scenario) not in done:
            folder = tmp_path_factory.mktemp(f"processes-{number}")
            run = torchrun(number, SCENARIOS, folder, *names, timeout=600)
            assert run.returncode == 0, run.stderr[-4000:]
            done.update(dict.fromkeys([(number, name) for name in names], folder))
        return [torch.load(done[number, scenario] / scenario / f"{rank}.pt", weights_only=True) for rank in range(number)]

    of.folders = done
    return of
