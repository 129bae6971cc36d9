"""The minimal example does what it says, in one process and in two."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch import torchrun

EXAMPLE = Path(__file__).parents[2] / "examples" / "ddp_minimal.py"


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one():
    alone = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True).stdout
    said = torchrun(2, EXAMPLE).stdout
    expected = re.findall(r"norm of the gradient (\S+), sum of the weights (\S+)", alone)
    assert len(expected) == 3
    for rank in range(2):
        lines = "\n".join(line for line in said.splitlines() if f"[process {rank} of 2]" in line)
        assert re.findall(r"norm of the gradient (\S+), sum of the weights (\S+)", lines) == expected
        assert f"the average of 2 gradients has norm {expected[0][0].rstrip(',')}" in lines  # by hand, as DDP does it
        assert "ring, turn 2" in lines
