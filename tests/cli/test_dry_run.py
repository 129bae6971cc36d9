"""--dry-run: what a run would take, measured on its own model and data, while no file is written or removed."""

import json
import math

import pytest
import torch

from pushforward import models, nn
from pushforward.cli import main
from pushforward.cli.rehearse import duration, size_of
from pushforward.data.dataset import Dataset
from pushforward.training.rehearsal import rehearsed
from pushforward.training.settings import Settings
from pushforward.training.validation import Schedule

TRAIN = ["train", "realnvp", "--data", "moons", "--steps", "4", "--batch-size", "16", "--hidden", "8"]


def files(folder):
    """Return everything in a folder: contents and times of files by path."""
    return {
        str(one.relative_to(folder)): (one.stat().st_mtime_ns, one.read_bytes() if one.is_file() else None) for one in folder.rglob("*")
    }


def dry(capsys, *command):
    """Return what a command prints with --dry-run and --json."""
    capsys.readouterr()
    assert main([*map(str, command), "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "flow"
    options = ["--data", "moons", "--steps", "4", "--batch-size", "16", "--checkpoint-every", "2", "net:mlp", "--net.hidden", "64", "64"]
    assert main(["train", "rectified_flow", *options, "--out", str(out), "-q"]) == 0
    return out


def test_nothing_is_written_and_nothing_removed(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = files(run), files(tmp_path)
    found = dry(capsys, "train", "rectified_flow", "--data", "moons", "--steps", 4, "--batch-size", 16, "--out", run, "--overwrite")
    assert found["run_is"] == "replaced"
    assert dry(capsys, *TRAIN)["run"] == "runs/realnvp-moons"
    assert dry(capsys, *TRAIN, "--tensorboard", "--profile", 2)["run_is"] == "created"
    assert dry(capsys, "reflow", run, "--pairs", 20)["time"]["before_seconds"] > 0
    assert dry(capsys, "distill", run, "--pairs", 20)["data"]["train"] == 20
    assert main([*TRAIN, "--dry-run"]) == 0
    assert (files(run), files(tmp_path)) == before


def test_a_dry_run_is_refused_as_the_run_would_be(run, capsys):
    assert main([*TRAIN, "--out", str(run), "--dry-run"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["train", "realnvp", "--data", "moons", "--layers", "0", "--dry-run"]) == 2


def test_parameters_data_and_the_checkpoint_are_those_of_the_run(run, capsys):
    options = ["--data", "moons", "--steps", 4, "--batch-size", 16, "net:mlp", "--net.hidden", 64, 64, "--out", f"{run}-other"]
    found = dry(capsys, "train", "rectified_flow", *options)
    assert main(["info", str(run), "--json"]) == 0
    assert found["parameters"] == json.loads(capsys.readouterr().out)["parameters"]
    assert (found["data"]["train"], found["data"]["shape"], found["data"]["classes"]) == (10_000, [2], 2)
    written = sum(one.stat().st_size for one in (run / "checkpoints" / "step-000004").iterdir())
    assert found["checkpoint"]["bytes"] == pytest.approx(written, abs=20_000)  # headers, settings and the manifest
    assert len([*(run / "checkpoints").glob("step-*")]) <= found["checkpoint"]["kept"]


def test_a_continued_run_has_the_steps_that_are_left(run, capsys):
    found = dry(capsys, "train", "--resume", "--out", run, "--steps", 10)
    assert (found["run_is"], found["time"]["first_step"], found["time"]["steps"]) == ("continued", 4, 10)
    assert found["time"]["training"] == pytest.approx(6 * found["time"]["step"])


def test_what_was_chosen_for_the_data_is_printed(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["train", "maf", "--data", "wine", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "for 144 examples of 13 features: " in text
    assert "dropout 0.2" in text
    for word in ("parameters", "weights", "gradients", "optimiser", "activations", "steps of", "checkpoint", "would be created"):
        assert word in text


def test_memory_is_counted_from_the_tensors():
    """Of an MLP that is 3 -> 5 -> 3 in float32: 38 weights; AdamW has two moments, and its average is a copy."""
    linear = nn.MLP.Config((5,), time_features=0).build((3,))
    model = models.rectified_flow(linear, (3,))
    data = Dataset("rows", torch.randn(64, 3))
    found = rehearsed(model, Settings(steps=30, batch_size=32, validate_every=10), data, validation=0)
    weights = sum(4 * one.numel() for one in model.parameters())
    held = weights + sum(one.nbytes for one in model.buffers())
    assert found.parameters == found.trained == sum(one.numel() for one in linear.parameters())
    assert {name: size for name, size in found.memory.items() if name != "activations"} == {
        "weights": held, "gradients": weights, "optimiser": 2 * weights, "average": held, "data": 64 * 3 * 4,
    }  # fmt: skip
    assert found.training == pytest.approx(30 * found.step)
    assert (found.validation, found.measured) == (0.0, 20)


def test_activations_grow_with_the_batch_and_shrink_when_it_is_accumulated():
    data = Dataset("rows", torch.randn(512, 4))

    def kept(**settings):
        torch.manual_seed(0)
        model = models.rectified_flow(nn.MLP.Config((64, 64)), (4,))
        return rehearsed(model, Settings(steps=1, **settings), data, 0).memory["activations"]

    small, large, parts = kept(batch_size=128), kept(batch_size=512), kept(batch_size=512, accumulate=4)
    assert small > 128 * 2 * 64 * 4  # two hidden layers at least
    assert 3.5 * small < large <= 4 * small
    assert parts < 1.1 * small


@pytest.mark.parametrize("preset", ["meanflow", "ffjord"])
def test_models_whose_loss_differentiates_are_measured_too(preset, capsys):
    found = dry(capsys, "train", preset, "--data", "moons", "--steps", 2, "--batch-size", 8)
    assert math.isfinite(found["time"]["total"])


@pytest.mark.parametrize(("first", "every"), [(1, 0), (1, 4), (4, 4), (5, 3), (10, 3), (50, 10)])
def test_validations_are_counted_without_going_through_the_steps(first, every):
    schedule = Schedule(steps=10, first=first, every=every, patience=0, counted_from=0, grids=True)
    for after in range(13):
        assert schedule.count(after) == sum(schedule.due(step) for step in range(after + 1, 11))
    assert Schedule(10**15, 1, 10, 0, 0, True).count(0) == 10**14 + 1


def test_units_of_sizes_and_times():
    assert [size_of(one) for one in (12, 1500, 2.5e9, math.inf)] == ["12 bytes", "1.5 kB", "2.5 GB", "unknown"]
    assert [duration(one) for one in (0.0123, 30, 300, 10_000, 1e6)] == ["12.3 ms", "30 s", "5 min", "2.78 h", "11.6 days"]
