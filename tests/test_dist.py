"""What is published of the project: the version in CITATION.cff, and the wheel, which works without the checkout."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pushforward

ROOT = Path(__file__).parents[1]


def test_the_citation_states_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pushforward.__version__
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["license"] == re.search(r'^license = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("build", "hatchling"))), reason="needs build and hatchling")
def test_the_wheel_works_in_an_environment_of_its_own():
    done = subprocess.run([sys.executable, ROOT / "tools" / "check_dist.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"pushforward-{pushforward.__version__}-py3-none-any.whl" in done.stdout
