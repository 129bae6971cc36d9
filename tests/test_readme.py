"""The READMEs' Python runs as it stands, each file from top to bottom."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["README.md", pytest.param("README.zh.md", marks=pytest.mark.slow)])  # of the same code
def test_the_python_of_the_readme_runs(name):
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 3
    scope: dict = {}
    for block in blocks:
        exec(compile(block, name, "exec"), scope)
    assert scope["samples"].shape == (1000, 2)
    assert (scope["again"] - scope["x"]).abs().max() < 1e-3  # the default tolerance is 1e-5 a step


def test_both_readmes_run_the_same_code():
    texts = [(ROOT / one).read_text(encoding="utf-8") for one in ("README.md", "README.zh.md")]
    english, chinese = (re.findall(r"```(?:python|sh)\n(.*?)```", text, flags=re.DOTALL) for text in texts)

    def code(blocks):
        return [[line.partition("#")[0].rstrip() for line in block.splitlines()] for block in blocks]

    assert code(english) == code(chinese)
