"""What a run reports of itself: it adds up, and reporting changes nothing."""

import json

import numpy
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import UserError
from pushforward.training.processes import Processes, processes
from pushforward.training.progress import Callback, read_metrics
from pushforward.training.stopping import StopSignal
from pushforward.training.telemetry import BINS, LossOverTime, Phases, by_time


class Hear(Callback):
    def __init__(self):
        self.rows = []

    def on_step(self, trainer, metrics):
        self.rows.append(metrics)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    arguments = ["train", "rectified_flow", "--data", "moons", "--data-options", "n", "200", "--steps", "20", "--batch-size", "32"]
    arguments += ["--log-every", "5", "--checkpoint-every", "10", "--validate-every", "10", "--warmup", "2", "--out", str(out)]
    assert main([*arguments, "--tensorboard", "--profile", "2", "net:mlp", "--net.hidden", "16"]) == 0
    return out


def test_every_time_that_was_drawn_is_in_the_histogram(run):
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    assert [sum(row["t_histogram"]) for row in rows] == [5 * 32] * 4
    for row in rows:
        weighted = sum(count * (loss or 0) for count, loss in zip(row["t_histogram"], row["loss_by_t"], strict=True))
        assert weighted / (5 * 32) == pytest.approx(row["loss"], rel=1e-4)


def test_phases_add_up_to_the_time_of_training(run):
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "loss" in row]
    phases = [row["phases"] for row in rows]
    assert {"data", "forward", "backward", "optimiser"} <= phases[0].keys()
    assert "save" in phases[2]  # of step 10
    assert "validation" in phases[2]
    assert sum(sum(one.values()) for one in phases) <= rows[-1]["seconds"]
    assert sum(sum(one.values()) for one in phases) > 0.5 * rows[-1]["seconds"]


def test_rates_memory_and_skips_are_reported(run):
    row = read_metrics(run / "metrics.jsonl")[0]
    assert row["samples_per_second"] == pytest.approx(32 * row["steps_per_second"], rel=1e-2)
    assert row["memory_mb"] > 50
    assert row["skipped"] == 0


def test_info_sums_it_up(run, capsys):
    assert main(["info", str(run)]) == 0
    said = capsys.readouterr().out
    for what in (
        "throughput",
        "samples/s",
        "time by phase",
        "forward",
        "backward",
        "save",
        "memory",
        "skipped steps",
        "loss by tenths of t",
    ):
        assert what in said


def test_the_trace_holds_the_steps_asked_for(run):
    events = json.loads((run / "trace.json").read_text())["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert sum(name.startswith("ProfilerStep#") and event.get("ph") == "X" for name, event in zip(names, events, strict=True)) >= 2
    assert any("addmm" in name for name in names)


def test_tensorboard_gets_what_the_metrics_file_gets(run):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = read_metrics(run / "metrics.jsonl")
    assert [one.value for one in events.Scalars("loss")] == pytest.approx([row["loss"] for row in rows if "loss" in row], rel=1e-5)
    assert [one.step for one in events.Scalars("validation_loss")] == [10, 20]
    assert {"phases/forward", "loss_by_t/0.0-0.1", "gradient_norm"} <= set(events.Tags()["scalars"])


def test_a_profile_of_no_steps_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least 1 step"):
        pf.training.Profile(tmp_path / "trace.json", steps=0)


def test_watching_changes_no_weight():
    def fit():
        torch.manual_seed(0)
        one = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))
        return pf.Trainer(one, pf.data.moons(n=64).x, steps=4, batch_size=16, warmup=1, log_every=1, callbacks=[Hear()]).fit().model

    watched = fit()
    assert watched.watch is None
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), fit().parameters(), strict=True))


def test_times_at_both_ends_have_a_bin():
    over = LossOverTime()
    over.add(torch.tensor([0.0, 0.05, 0.95, 1.0]), torch.tensor([1.0, 3.0, 5.0, 7.0]))
    told = by_time(over.take())
    assert told["t_histogram"] == [2] + [0] * (BINS - 2) + [2]
    assert told["loss_by_t"] == [2.0] + [None] * (BINS - 2) + [6.0]
    assert by_time(over.take()) == {}


def test_phases_begin_anew_when_they_are_taken():
    phases = Phases(torch.device("cpu"))
    with phases("forward"):
        pass
    phases.add("forward", 2.0)
    assert phases.take()["forward"] == pytest.approx(2.0, abs=0.1)
    assert phases.take() == {}


def test_one_process_alone_agrees_with_itself_at_once():
    alone = processes()
    assert alone == Processes()
    assert StopSignal(alone).agree(15) == 15
    assert alone.gather("x") == ["x"]
    assert alone.of_main(lambda: 3, "counting") == 3


@pytest.mark.slow
def test_memory_is_flat_over_a_million_samples(tmp_path):
    """A tenth of the samples warms everything up; the nine tenths after it may not add to the most that was ever held."""
    numpy.save(tmp_path / "x.npy", numpy.random.RandomState(0).standard_normal((250_000, 16)).astype(numpy.float32))
    data = pf.data.load(tmp_path / "x.npy", mapped=True)
    model = pf.models.rectified_flow(pf.nn.MLP.Config((16,)), (16,))
    hear = Hear()
    pf.Trainer(model, data, steps=500, batch_size=2000, block=500, log_every=50, workers=1, callbacks=[hear]).fit()
    assert hear.rows[-1]["step"] * 2000 == 1_000_000
    assert hear.rows[-1]["memory_mb"] - hear.rows[0]["memory_mb"] < 10
