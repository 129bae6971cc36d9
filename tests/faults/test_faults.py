"""Processes that are killed and disks that are full: nothing that was saved is lost."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from launch import SCENARIOS, TORCHRUN, torchrun

from pushforward.cli import main
from pushforward.formats.model import load
from pushforward.formats.run import checkpoints

pytestmark = pytest.mark.faults
TRAIN = ["train", "rectified_flow", "--data", "moons", "--data-options", "n", "200", "--steps", "1200", "--batch-size", "32"]
TRAIN += ["--block", "8", "--warmup", "2", "--checkpoint-every", "25", "--validate-every", "0"]
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


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("dead", r"process 1 has terminated or hangs, its last heartbeat was at step \d"),
        ("hung", r"process 1 has terminated or hangs, its last heartbeat was at step \d"),
        ("broken", "process 1 ended: the shelf broke"),
    ],
)
def test_a_process_in_trouble_is_named_by_the_other(tmp_path, scenario, said):
    started = time.monotonic()
    run = torchrun(2, SCENARIOS, tmp_path, scenario)
    assert run.returncode != 0
    assert re.search(said + r".*\(noticed by process 0 of 2\); start again with --resume", run.stderr)
    assert time.monotonic() - started < 100


def test_two_processes_killed_in_the_middle_end_with_the_bits_of_two_that_were_not(tmp_path):
    out = tmp_path / "killed"
    process = subprocess.Popen([*TORCHRUN, "2", "-m", "pushforward", *TRAIN, "--out", str(out), *NET], start_new_session=True)
    while process.poll() is None and (not out.exists() or checkpoints(out).newest_whole() is None):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    for pid in subprocess.run(["pgrep", "-f", str(out)], capture_output=True, text=True, check=False).stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    process.wait()
    assert checkpoints(out).newest_whole() is not None
    assert torchrun(2, "-m", "pushforward", "train", "--resume", "--out", out).returncode == 0
    assert torchrun(2, "-m", "pushforward", *TRAIN, "--out", tmp_path / "whole", *NET).returncode == 0
    pairs = zip(load(out, "raw", "last").state_dict().values(), load(tmp_path / "whole", "raw", "last").state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not list((out / "checkpoints").glob(".step-*"))


def test_ctrl_c_stops_all_processes_with_one_checkpoint(tmp_path):
    out = tmp_path / "stopped"
    process = subprocess.Popen([*TORCHRUN, "2", "-m", "pushforward", *TRAIN, "--out", str(out), *NET])
    while process.poll() is None and (not out.exists() or checkpoints(out).newest_whole() is None):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    saved = checkpoints(out).newest_whole()
    state = torch.load(saved / "training.pt", weights_only=True)
    assert 25 < state["step"] < 1200


def test_a_disk_that_is_full_at_the_next_checkpoint_loses_no_step(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "none", str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        done = subprocess.run(command(*TRAIN, "--out", str(disk / "run"), *NET), capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        found = re.search(r"No space left on device; step (\d+) is saved in (\S+):", done.stderr)
        assert found, done.stderr
        whole = checkpoints(disk / "run").newest_whole()
        assert whole is None or int(whole.name[-6:]) < int(found[1])
        rescued = Path(found[2])
        assert torch.load(rescued / f"step-{int(found[1]):06d}" / "training.pt", weights_only=True)["step"] == int(found[1])
        shutil.rmtree(rescued.parent)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
