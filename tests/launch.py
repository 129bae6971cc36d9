"""Starts several processes as a user would: under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

SCENARIOS = Path(__file__).with_name("distributed") / "scenarios.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def torchrun(number, *arguments, timeout=300):
    """Run a script or `-m module` in so many processes and return what subprocess.run returns."""
    command = [*TORCHRUN, str(number), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
