"""Conditions that are vectors or images on the command line: train, sample, evaluate, reflow."""

import json

import numpy
import pytest
import torch
import yaml

import pushforward as pf
from pushforward.cli import main

QUICK = ["--steps", "3", "--batch-size", "16", "--block", "16", "--validate-every", "3"]
UNET = ["net:unet", "--net.channels", "4", "--net.multipliers", "1", "--net.depth", "1", "--net.attention", "0", "--net.heads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two archives, and a run on each: a U-Net under vectors, trained also without, and a flow under images."""
    folder, generator = tmp_path_factory.mktemp("conditions"), numpy.random.default_rng(0)
    images = generator.normal(size=(60, 1, 4, 4)).astype(numpy.float32)
    numpy.savez(folder / "vectors.npz", x=images, y=generator.normal(size=(60, 3)))
    numpy.savez(folder / "images.npz", x=images, y=generator.integers(256, size=(60, 8, 8, 3), dtype=numpy.uint8))
    vectors = ["--data", str(folder / "vectors.npz"), "--drop-cond", "0.1", "--out", str(folder / "unet")]
    assert main(["train", "rectified_flow", *vectors, *QUICK, *UNET]) == 0
    for preset, more in (("glow", ["--levels", "1", "--depth", "1", "--hidden", "4"]), ("rectified_flow", UNET)):
        data = ["--data", str(folder / "images.npz"), "--out", str(folder / preset)]
        assert main(["train", preset, *data, *QUICK, *more]) == 0
    return folder


def test_a_run_states_what_its_network_was_built_for(folder):
    models = [yaml.safe_load((folder / run / "config.yaml").read_text())["model"] for run in ("unet", "glow")]
    assert [(one["classes"], one["cond_features"], one["cond_image"]) for one in models] == [(None, 3, None), (None, None, [3, 8, 8])]
    assert pf.load(folder / "unet").conditioning.cond_features == 3


@pytest.mark.parametrize("given", [["0.5", "-1", "2e3"], ["test"], ["{}/vectors.npz"], []], ids=["numbers", "split", "file", "none"])
def test_samples_are_drawn_under_vectors(folder, given, tmp_path):
    given = [one.format(folder) for one in given]
    cond = ["--cond", *given] if given else []
    assert main(["sample", str(folder / "unet"), "-n", "8", "--steps", "2", "--out", str(tmp_path / "x.npz"), *cond]) == 0
    with numpy.load(tmp_path / "x.npz") as made:
        assert made["x"].shape == (8, 1, 4, 4)
        y = made["y"] if given else None
    expected = {
        "0.5": lambda: torch.tensor([[0.5, -1, 2e3]]),
        "test": lambda: pf.data.load(folder / "vectors.npz", "test").cond,
        f"{folder}/vectors.npz": lambda: torch.tensor(numpy.load(folder / "vectors.npz")["y"]).float(),
    }
    if given:
        rows = expected[given[0]]()
        assert numpy.array_equal(y, rows[torch.arange(8) % len(rows)])


def test_samples_under_images_are_written_with_them(folder, tmp_path):
    for run in ("glow", "rectified_flow"):
        numpy.save(tmp_path / "one.npy", numpy.zeros((1, 8, 8, 3), numpy.uint8))
        out = tmp_path / f"{run}.npz"
        assert main(["sample", str(folder / run), "-n", "2", "--cond", str(tmp_path / "one.npy"), "--out", str(out)]) == 0
        with numpy.load(out) as made:
            assert (made["x"].shape, made["y"].shape) == ((2, 1, 4, 4), (2, 3, 8, 8))
        assert main(["sample", str(folder / run), "-n", "2", "--cond", "test", "--out", str(tmp_path / "x.png")]) == 0


def test_guidance_needs_no_more_than_dropped_conditions(folder, tmp_path):
    arguments = ["sample", str(folder / "unet"), "-n", "4", "--cond", "test", "--steps", "2", "--guidance", "3", "--out"]
    assert main([*arguments, str(tmp_path / "x.npy")]) == 0


@pytest.mark.parametrize("run", ["unet", "glow"])
def test_evaluation_is_given_the_conditions_of_test_data(folder, run):
    few = ["--samples", "12", "--scored", "6", "--draws", "1", "--compared", "6"]
    more = ["--evaluations", "1"] if run == "unet" else []
    assert main(["evaluate", str(folder / run), *few, *more]) == 0
    judged = json.loads((folder / run / "evaluation.json").read_text())
    own = judged["likelihood"][0]
    assert own["conditional"] is not None
    assert (own["pooled"], own["mixture"]) == (None, None)


@pytest.mark.slow
def test_a_reflow_keeps_conditions(folder, tmp_path):
    arguments = ["reflow", str(folder / "unet"), "--pairs", "20", "--steps", "2", "--batch-size", "16", "--out", str(tmp_path / "again")]
    assert main(arguments) == 0
    assert pf.load(tmp_path / "again-1").conditioning.cond_features == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glow"], "--cond is missing: this model needs images (9, 3, 8, 8) as conditions; give a .npy file of them"),
        (["unet", "--cond", "1", "2"], "--cond is 1 2, of shape (1, 2), but this model needs vectors (1, 3)."),
        (["unet", "--cond", "nowhere.npy"], "--cond is nowhere.npy, but there is no such file"),
        (["unet", "--cond", "red"], "--cond is red, but it must be a .npy file of them"),
        (["unet", "--cond", "1", "2", "nan"], "--cond is 1 2 nan, which holds NaN or infinity"),
        (["unet", "--label", "3"], "--label is 3, but this model was trained without classes"),
        (["glow", "--cond", "{}/vectors.npz"], "of shape (60, 3), but this model needs images (60, 3, 8, 8)."),
        (["rectified_flow", "--cond", "test", "--guidance", "2"], "drop_cond is 0, so no training without conditions"),
    ],
)
def test_conditions_that_do_not_fit_are_one_sentence(folder, arguments, message, capsys, tmp_path):
    run, *more = [one.format(folder) for one in arguments]
    capsys.readouterr()
    assert main(["sample", str(folder / run), "-n", "9", "--out", str(tmp_path / "x.png"), *more]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("classes", "message"),
    [(3, "this model was trained on classes; choose one with --label"), (None, "this model was trained on no conditions; leave it out")],
)
def test_conditions_that_a_model_does_not_read_are_refused(classes, message, tmp_path, capsys):
    """A model of classes once ignored them, and drew all of its classes."""
    pf.save(pf.models.realnvp(2, layers=1, hidden=(4,), classes=classes), tmp_path / "model")
    assert main(["sample", str(tmp_path / "model"), "-n", "2", "--cond", "1", "--out", str(tmp_path / "x.npy")]) == 2
    said = capsys.readouterr().err
    assert "--cond is 1, but" in said
    assert message in " ".join(said.split())
    assert not (tmp_path / "x.npy").exists()
