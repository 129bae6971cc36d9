"""The settings that `train` chooses for small data: printed, overridden by options, and never chosen anew for a stored configuration."""

import numpy
import pytest
import yaml

from pushforward.cli import main


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "points.csv"
    x = numpy.random.default_rng(0).standard_normal((150, 3)).cumsum(1)
    numpy.savetxt(path, x, delimiter=",", header="a,b,c", comments="", fmt="%.4f")
    return path


def settings(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    return {**config["model"], **config["training"]}


def test_settings_for_small_data_are_chosen_printed_and_overridden(table, tmp_path, capsys):
    train = ["train", "maf", "--data", str(table), "--steps", "3"]
    assert main([*train, "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().err
    assert "chosen for 120 examples of 3 features: " in printed
    assert "dropout 0.2" in printed
    chosen = settings(tmp_path / "a")
    assert (chosen["dropout"], chosen["layers"], chosen["hidden"], chosen["input_noise"]) == (0.2, 4, [64, 64], 0.27)

    assert main([*train, "--out", str(tmp_path / "b"), "--dropout", "0", "--hidden", "16"]) == 0
    printed = capsys.readouterr().err
    assert "dropout" not in printed, "what was not chosen is not printed as chosen"
    given = settings(tmp_path / "b")
    assert (given["dropout"], given["hidden"], given["layers"]) == (0.0, [16], 4)

    assert main(["train", "--config", str(tmp_path / "b" / "config.yaml"), "--out", str(tmp_path / "c")]) == 0
    assert "chosen for" not in capsys.readouterr().err
    assert settings(tmp_path / "c") == given


@pytest.mark.slow
def test_a_flow_that_is_behind_a_gaussian_prints_so(table, tmp_path, capsys):
    train = ["train", "nice", "--data", str(table), "--lr", "1e-6"]
    assert main([*train, "--steps", "1", "--out", str(tmp_path / "short")]) == 0
    printed = capsys.readouterr().out
    assert "worse than a Gaussian by" in printed.splitlines()[0]
    assert main(["train", "maf", "--data", str(table), "--steps", "300", "--out", str(tmp_path / "long")]) == 0
    assert "worse than a Gaussian" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_be_compared_with_a_gaussian_ends_as_usual(tmp_path, capsys):
    numpy.save(tmp_path / "x.npy", numpy.random.default_rng(0).standard_normal((40, 3)))
    numpy.savez(tmp_path / "same.npz", x=numpy.ones((40, 3)))
    for data in (tmp_path, tmp_path / "same.npz"):  # rows on disk; no Gaussian fits
        train = ["train", "nice", "--data", str(data), "--hidden", "4", "--steps", "1", "--out", str(tmp_path / f"run-{data.stem}")]
        assert main(train) == 0
        assert "trained 1 steps" in capsys.readouterr().out


def test_angles_keep_their_units_by_default(tmp_path, capsys):
    angles = numpy.random.default_rng(0).uniform(-numpy.pi, numpy.pi, (40, 2)).astype("float32")
    numpy.save(tmp_path / "radians.npy", angles)
    numpy.save(tmp_path / "degrees.npy", numpy.degrees(angles))
    options = ["--circular", "--layers", "2", "--hidden", "8", "--steps", "2", "--batch-size", "8"]
    assert main(["train", "nsf", "--data", str(tmp_path / "radians.npy"), *options, "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "nsf", "--data", str(tmp_path / "degrees.npy"), *options, "--out", str(tmp_path / "other")]) == 2
    assert "angles are in radians" in capsys.readouterr().err
