"""`pushforward edit`: examples of one class become another, from the run's own data or a file; everything else is one sentence."""

import numpy
import PIL.Image
import pytest
import torch

import pushforward as pf
from pushforward.cli import main

QUICK = ["--steps", "3", "--batch-size", "32", "--block", "32", "net:mlp", "--net.hidden", "16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edit") / "run"
    assert main(["train", "rectified_flow", "--data", "digits", "--drop-cond", "0.1", "--out", str(folder), *QUICK]) == 0
    return folder


def edit(run, out, *more):
    return main(["edit", str(run), "--source", "3", "--target", "8", "--steps", "4", "--out", str(out), *more])


def test_the_command_is_the_method_on_the_threes_of_the_test_set(run, tmp_path):
    assert edit(run, tmp_path / "x.npz", "-n", "5", "--method-options", "n_max", "4", "--seed", "3") == 0
    test = pf.data.load("digits", "test")
    threes = test.x[test.cond == 3][:5]
    method = pf.editing.FlowEdit(1.5, 5.5, steps=4, n_max=4)
    made = method(pf.load(run), threes, torch.tensor([3]), torch.tensor([8]), generator=torch.Generator().manual_seed(3))
    with numpy.load(tmp_path / "x.npz") as written:
        assert written["y"].tolist() == [8] * 5
        assert numpy.array_equal(written["x"], made.floor().clamp(0, 16).numpy().astype(written["x"].dtype))


def test_a_picture_has_each_result_below_its_source(run, tmp_path):
    assert edit(run, tmp_path / "x.png", "-n", "4", "--method", "rf-inversion", "--guidance", "1", "2") == 0
    pixels = numpy.asarray(PIL.Image.open(tmp_path / "x.png").convert("L")).astype(float)
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(17 / 35, rel=0.1)  # 2 x 8 pixels and a line, 4 x 8 and 3 gaps


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_file_of_examples_is_edited(run, tmp_path, suffix):
    x = numpy.random.default_rng(0).integers(17, size=(3, 1, 8, 8)).astype(numpy.float32)
    path = tmp_path / f"mine{suffix}"
    numpy.save(path, x) if suffix == ".npy" else numpy.savez(path, x=x)
    same = ["--target", "3", "--guidance", "2", "2"]
    assert edit(run, tmp_path / "x.npy", "--data", str(path), *same) == 0  # the last --target counts
    assert numpy.array_equal(numpy.load(tmp_path / "x.npy"), x)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--target", "12"], "--target is '12', but the classes are 0, 1, 2"),
        (["--source", "cat"], "--source is 'cat', but the classes are"),
        (["--data", "mine.csv"], "--data is mine.csv, but it is train, validation, test for the run's data"),
        (["--method-options", "n_max", "9"], "n_max is 9, but it must be at most 4"),
        (["--method-options", "eta", "0.5"], "'eta' is not a known option of flow-edit"),
        (["--method", "rf-inversion", "--method-options", "eta", "2"], "eta is 2.0, but it is a share from 0 to 1"),
        (["--out", "x.jpg"], "--out is x.jpg, but samples are written to"),
        (["-n", "0"], "-n is 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, tmp_path, monkeypatch, capsys, more, sentence):
    monkeypatch.chdir(tmp_path)
    assert edit(run, "x.npy", *more) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x.npy").exists()


def test_models_without_a_path_or_classes_and_other_shapes_are_refused(run, tmp_path, capsys):
    for name, model, sentence in (
        ("flow", pf.models.nice(2, hidden=(8,)), "FlowEdit needs a PathModel"),
        ("path", pf.models.rectified_flow(pf.nn.MLP.Config((8,))), "--source is 3, but this model was trained without classes"),
    ):
        pf.save(model, tmp_path / name)
        assert edit(tmp_path / name, tmp_path / "x.npy") in (1, 2)
        assert sentence in capsys.readouterr().err
    numpy.save(tmp_path / "x.npy", numpy.zeros((2, 3), numpy.float32))
    assert edit(run, tmp_path / "y.npy", "--data", str(tmp_path / "x.npy")) == 2
    assert "whose examples have shape (3,), but this model was trained on (1, 8, 8)" in capsys.readouterr().err
