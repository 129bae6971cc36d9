"""Run folders: checkpoints are ordered as numbers, only what is a run is replaced, and one process at a time writes."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import RunExistsError
from pushforward.formats.lock import HOLDER, locked
from pushforward.formats.run import checkpoints, is_run, step_of

TINY = ["train", "rectified_flow", "--data", "moons", "--data-options", "n", "100", "--steps", "2", "--batch-size", "16", "--block", "8"]
NET = ["net:mlp", "--net.hidden", "8"]


def flow():
    return pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))


def fit(out, steps=2, **settings):
    return pf.Trainer(flow(), torch.randn(64, 2), out=out, steps=steps, batch_size=16, **settings).fit()


def train(out, *more):
    return main([*TINY, "--out", str(out), *more, *NET])


def test_checkpoints_are_ordered_as_numbers(tmp_path):
    kept = checkpoints(tmp_path)
    for step in (2, 30, 999_999, 1_000_000):
        kept.write(step, lambda folder: (folder / "step.txt").write_text("x"), best=False)
    assert kept.names() == ["step-999999", "step-1000000"]
    assert kept.newest_whole().name == "step-1000000"
    assert kept.newest_whole(before="step-1000000").name == "step-999999"
    assert (kept.path("last").name, step_of("step-x"), step_of("best")) == ("step-1000000", -1, -1)


def test_a_run_goes_on_from_its_millionth_step(tmp_path):
    data = torch.randn(64, 2)
    pf.Trainer(flow(), data, out=tmp_path, steps=4, batch_size=16, checkpoint_every=1).fit()
    for name, new in zip(checkpoints(tmp_path).names(), ("step-999999", "step-1000000"), strict=True):
        (tmp_path / "checkpoints" / name).rename(tmp_path / "checkpoints" / new)
    assert pf.Trainer(flow(), data, out=tmp_path, steps=9, batch_size=16, resume=True).step == 4


def test_a_used_folder_is_refused_continued_or_replaced(tmp_path):
    data = torch.randn(64, 2)
    pf.Trainer(flow(), data, out=tmp_path, steps=6, batch_size=16).fit()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunExistsError, match="holds a run already; resume=True continues it, overwrite=True replaces it"):
        fit(tmp_path)
    assert checkpoints(tmp_path).names() == ["step-000006"]
    pf.Trainer(flow(), data, out=tmp_path, steps=3, batch_size=16, overwrite=True).fit()
    assert pf.Trainer(flow(), data, out=tmp_path, steps=9, batch_size=16, resume=True).step == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwrite_in_python_spares_what_is_no_run(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "mine.txt").write_text("a year of work")
    with pytest.raises(RunExistsError, match="is not a run"):
        fit(tmp_path, overwrite=True)
    assert (tmp_path / "samples" / "mine.txt").exists()


def test_overwrite_spares_what_is_no_run(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("title: my pages\n")
    (tmp_path / "draft.txt").write_text("a year of work")
    assert not is_run(tmp_path)
    assert train(tmp_path, "--overwrite") == 2
    assert "is not a run" in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["config.yaml", "draft.txt"]


@pytest.mark.parametrize("wrong", [["--accumulate", "7"], ["--lr", "-1"], ["--data", "nowhere.csv"], ["--bridge", "-1"]])
def test_the_old_run_stands_until_the_new_one_does(wrong, tmp_path, capsys):
    assert train(tmp_path / "run") == 0
    before = sorted(one.name for one in (tmp_path / "run").iterdir())
    assert main([*TINY, "--out", str(tmp_path / "run"), "--overwrite", *wrong, *NET]) in (1, 2)
    assert sorted(one.name for one in (tmp_path / "run").iterdir()) == before
    assert train(tmp_path / "run", "--overwrite") == 0


def test_a_teacher_is_never_its_students_folder(tmp_path, capsys):
    assert train(tmp_path / "run-1") == 0
    for command in (
        ["distill", str(tmp_path / "run-1"), "--out", str(tmp_path / "run-1")],
        ["reflow", str(tmp_path / "run-1"), "--out", str(tmp_path / "run")],
    ):
        assert main([*command, "--pairs", "20", "--overwrite"]) == 2
        assert "the run that the pairs come from" in capsys.readouterr().err
    assert checkpoints(tmp_path / "run-1").names()


HOLD = """
import sys, time
from pathlib import Path
from pushforward.formats.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_writes(tmp_path, holder, monkeypatch):
    monkeypatch.setattr("pushforward.formats.lock.PATIENCE", 0.1)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(RunExistsError, match=f"is being written by process {holder.pid} on .* since 20"):
            fit(tmp_path, **options)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / HOLDER).exists()
    start = time.monotonic()
    fit(tmp_path)
    assert time.monotonic() - start < 5
    assert not (tmp_path / HOLDER).exists()


def test_a_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    with locked(tmp_path):
        pass


def test_the_command_of_the_first_time_resumes(tmp_path):
    assert train(tmp_path / "run") == 0
    assert train(tmp_path / "run", "--resume") == 0


@pytest.mark.parametrize(("delimiter", "label"), [("\t", "yes"), (",", "null"), ("|", "1e3"), (";", "on")])
def test_options_of_data_are_text(delimiter, label, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(
        "\n".join(delimiter.join(row) for row in [("a", "b", label), *((f"{k / 7:.3f}", f"{k % 5}", f"{k % 2}") for k in range(40))])
    )
    options = ["train", "realnvp", "--data", str(file), "--data-options", "label", label, "delimiter", delimiter]
    options += ["--steps", "1", "--batch-size", "8", "--out", str(tmp_path / "run")]
    if label == "null":
        options[5:7] = []
    assert main(options) == 0
    assert main([*options, "--resume"]) == 0
    assert pf.load(tmp_path / "run").classes == (None if label == "null" else 2)
