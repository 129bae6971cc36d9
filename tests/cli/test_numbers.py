"""Zero is a value: a number that cannot be is refused by its option's name, before anything is read, and never replaced by a default."""

import re

import pytest

from pushforward.cli import main

NEVER = {
    "evaluate": (
        "--samples 0",
        "--draws 0",
        "--compared -1",
        "--scored -1",
        "--steps 0",
        "--evaluations 0",
        "--evaluations 4 -2",
        "--seed -1",
    ),
    "reflow": ("--pairs 9", "--steps 0", "--batch-size 0", "--lr 0", "--lr -1e-3", "--lr nan", "--lr inf", "--rounds 0", "--seed -1"),
    "distill": ("--pairs 0", "--steps 0", "--batch-size -4", "--lr 0"),
    "demo": ("--steps 0", "--threads 0", "--seed -1"),
    "train": (
        "--steps 0",
        "--lr 0",
        "--lr nan",
        "--batch-size 0",
        "--warmup -1",
        "--betas 2 3",
        "--clip -1",
        "--ema 1",
        "--weight-decay -1",
    ),
}
CASES = [(command, options) for command, these in NEVER.items() for options in these]


@pytest.mark.parametrize(("command", "options"), CASES, ids=[f"{a} {b}" for a, b in CASES])
def test_a_number_that_cannot_be_is_refused_before_anything_is_read(command, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    subject = {"demo": [], "train": ["maf", "--data", "absent.csv"]}.get(command, ["absent"])
    assert main([command, *subject, *options.split()]) == 2
    option = options.split()[0].removeprefix("--").replace("-", "[-_]")
    assert "absent" not in (said := capsys.readouterr().err)
    assert re.match(rf"pushforward: (--)?{option} is ", said), said
    assert not list(tmp_path.iterdir())
