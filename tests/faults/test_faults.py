"""Processes that are killed and disks that are full: nothing that was saved is lost."""

import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from pushforward.cli import main
from pushforward.formats.model import load
from pushforward.formats.run import checkpoints

pytestmark = pytest.mark.faults
TRAIN = [
    "train",
    "rectified_flow",
    "--data",
    "moons",
    "--data-options",
    "n",
    "200",
    "--steps",
    "1200",
    "--batch-size",
    "32",
    "--warmup",
    "2",
]
TRAIN += ["--checkpoint-every", "25", "--validate-every", "0"]
NET = ["net:mlp", "--net.hidden", "16", "16"]


def command(*arguments):
    return [sys.executable, "-m", "pushforward", *arguments]


def test_a_run_killed_again_and_again_ends_with_the_bits_of_one_that_was_not(tmp_path):
    out = tmp_path / "killed"
    arguments = [*TRAIN, "--out", str(out), *NET]
    for number in range(3):
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = checkpoints(out).newest_whole() if out.exists() else None
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if out.exists() and checkpoints(out).newest_whole() != before:
                break
        time.sleep(0.01 * number)  # another moment between two checkpoints, or in the middle of one
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert checkpoints(out).newest_whole() is not None
        arguments = ["train", "--resume", "--out", str(out)]
    assert main(arguments) == 0
    assert main([*TRAIN, "--out", str(tmp_path / "whole"), *NET]) == 0
    pairs = zip(load(out, "raw", "last").state_dict().values(), load(tmp_path / "whole", "raw", "last").state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_file_system_that_takes_no_more_stops_in_one_sentence_and_keeps_what_was_saved(tmp_path):
    out = tmp_path / "full"
    assert main([*TRAIN, "--steps", "25", "--out", str(out), *NET]) == 0
    saved = checkpoints(out).newest_whole()

    def no_more_than_2_kib():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    done = subprocess.run(
        command("train", "--resume", "--out", str(out), "--steps", "50"),
        preexec_fn=no_more_than_2_kib,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("pushforward: ")
    assert checkpoints(out).newest_whole() == saved
    assert not list((out / "checkpoints").glob(".*.tmp"))
