"""`pushforward reflow`: rounds that were interrupted are completed, those that are complete are left alone."""

import signal

import pytest

from pushforward.cli import main
from pushforward.training.progress import read_metrics
from pushforward.training.validation import validation_loss

QUICK = ["--steps", "2", "--batch-size", "16"]


@pytest.mark.parametrize("command", ["reflow", pytest.param("distill", marks=pytest.mark.slow)])
def test_a_validation_that_a_signal_cut_short_is_done_again(command, tmp_path, monkeypatch, capsys):
    data = ["--data", "moons", "--data-options", "n", "100", "--block", "16"]
    assert main(["train", "rectified_flow", *data, *QUICK, "--out", str(tmp_path / "run"), "net:mlp", "--net.hidden", "8"]) == 0
    out = tmp_path / ("made-1" if command == "reflow" else "made")
    again = [command, str(tmp_path / "run"), "--pairs", "20", *QUICK, "--out", str(tmp_path / "made"), "--resume"]
    monkeypatch.setattr("pushforward.training.trainer.validation_loss", lambda *arguments: signal.SIGTERM)  # as a signal leaves it
    assert main(again) == 143
    assert not [row for row in read_metrics(out / "metrics.jsonl") if "validation_loss" in row]
    monkeypatch.setattr("pushforward.training.trainer.validation_loss", validation_loss)
    assert main(again) == 0
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl") if "validation_loss" in row] == [2]
    assert (out / "checkpoints" / "best").read_text() == "step-000002\n"
    capsys.readouterr()
    assert main(again) == 0
    assert "solving" not in capsys.readouterr().err
