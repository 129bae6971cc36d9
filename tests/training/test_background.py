"""Checkpoints that are written in the background: the same files, in order, while training continues; a failure is not lost."""

import os
import sys
import threading
import time

import pytest
import torch

import pushforward as pf
from pushforward.errors import CheckpointError
from pushforward.formats.model import RAW, WEIGHTS
from pushforward.formats.run import checkpoints
from pushforward.training import state
from pushforward.training.progress import Callback

SMALL = {"steps": 12, "batch_size": 16, "block": 8, "checkpoint_every": 4, "validate_every": 4, "log_every": 1, "warmup": 3, "lr": 0.01}


class Saves(Callback):
    """Which checkpoints were reported, and at which steps."""

    def __init__(self):
        self.seen = []

    def on_save(self, trainer, folder):
        assert (folder / WEIGHTS).exists()
        self.seen.append((folder.name, trainer.step))


def run(out, **options):
    torch.manual_seed(0)
    data, saves = pf.data.moons(n=50), Saves()
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=2)
    validation = pf.data.moons("validation", n=20)
    return pf.Trainer(model, data, validation=validation, out=out, callbacks=[saves], **{**SMALL, **options}).fit(), saves.seen


@pytest.fixture
def slowly(monkeypatch):
    """Writing takes longer than the steps between two checkpoints."""
    write = state.write_model

    def late(*args):
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.2)
        write(*args)

    monkeypatch.setattr(state, "write_model", late)


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a priority of its own on Linux only")
def test_training_comes_before_writing(tmp_path, monkeypatch):
    write, seen = state.write_model, []

    def watched(*args):
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        write(*args)

    monkeypatch.setattr(state, "write_model", watched)
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    run(tmp_path / "run", async_checkpoints=True)
    assert len(seen) == 3
    assert all(one > before or one == 19 for one in seen)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_the_files_are_those_of_checkpoints_written_at_once(tmp_path, monkeypatch):
    _, saved = run(tmp_path / "synchronous")
    assert saved == [("step-000004", 4), ("step-000008", 8), ("step-000012", 12)]
    write = state.write_model
    monkeypatch.setattr(state, "write_model", lambda *args: (time.sleep(0.2), write(*args)))
    trained, seen = run(tmp_path / "background", async_checkpoints=True)
    assert [name for name, _ in seen] == [name for name, _ in saved]
    for name in checkpoints(tmp_path / "synchronous").names():
        for file in (WEIGHTS, RAW):
            one, other = (checkpoints(tmp_path / how).folder / name / file for how in ("synchronous", "background"))
            assert one.read_bytes() == other.read_bytes()
    for pointer in ("last", "best"):
        assert checkpoints(tmp_path / "synchronous").pointed(pointer) == checkpoints(tmp_path / "background").pointed(pointer)
    assert trained.best_model is not None


def test_training_goes_on_meanwhile(tmp_path, slowly):
    trained, seen = run(tmp_path / "run", async_checkpoints=True, validate_every=0, checkpoint_every=6)
    assert seen[0][0] == "step-000006"
    assert seen[0][1] > 6  # reported when it had been written, some steps later
    assert trained.step == 12


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_failure_ends_the_run_and_loses_nothing(tmp_path, monkeypatch, failing):
    calls, write = [], state.write_model

    def full(folder, *args):
        calls.append(folder)
        if len(calls) == failing:
            raise OSError(28, "No space left on device", str(folder))
        write(folder, *args)

    monkeypatch.setattr(state, "write_model", full)
    with pytest.raises(CheckpointError, match="No space left on device; step .* saved in") as error:
        run(tmp_path / "run", async_checkpoints=True)
    place = str(error.value).split("saved in ")[1].split(": ")[0]
    spare = checkpoints(place.removesuffix("/checkpoints"))
    assert spare.newest_whole() is not None
    assert len(checkpoints(tmp_path / "run").names()) == min(failing - 1, 2)
