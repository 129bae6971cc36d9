"""Few-step models by commands: trained from data and from a teacher's run, resumed, sampled, evaluated, refused in one sentence."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from examples import one_in

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import UserError
from pushforward.formats.yaml_file import read_yaml

SETTINGS = ["--batch-size", "32", "--block", "16", "--warmup", "2", "--data-options", "n", "200"]
NET = ["net:mlp", "--net.hidden", "16"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert main(["train", "flow_matching", "--data", "moons", "--steps", "3", "--out", str(folder), *SETTINGS, *NET]) == 0
    return folder


def train(preset, out, *more):
    return main(["train", preset, "--data", "moons", "--out", str(out), *SETTINGS, *more])


@pytest.mark.parametrize("preset", one_in(4, ["meanflow", "improved_meanflow", "consistency", "shortcut"]))
def test_a_student_of_a_run_is_trained_sampled_and_loaded_without_it(preset, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train(preset, "run", "--steps", "3", "--teacher", str(teacher)) == 0
    model, own = pf.load("run"), pf.load(teacher)
    assert model.config["model"]["teacher"] == str(teacher)
    assert model.config["model"]["net"] == own.config["model"]["net"]
    assert torch.equal(model.preprocess.mean, own.preprocess.mean)
    assert model.teacher is None
    assert main(["sample", "run", "-n", "5", "--out", "x.npy"]) == 0
    assert main(["sample", "run", "-n", "5", "--sampler", "renoise", "--steps", "2", "--out", "y.npy"]) == 0


@pytest.mark.slow
def test_a_student_has_its_teachers_network_where_data_have_one_of_their_own(tmp_path, monkeypatch):
    """Small images have a default network, which once replaced the teacher's, so that the student did not start with its weights."""
    monkeypatch.chdir(tmp_path)
    net = ["net:unet", "--net.channels", "8", "--net.multipliers", "1", "2", "--net.depth", "1"]
    digits = ["--data", "digits", "--steps", "1", "--batch-size", "4", "--validate-every", "0"]
    assert main(["train", "flow_matching", *digits, "--out", "teacher", *net]) == 0
    assert main(["train", "shortcut", *digits, "--out", "student", "--teacher", "teacher"]) == 0
    assert main(["train", "shortcut", *digits, "--out", "other", "--teacher", "teacher", "net:unet", "--net.channels", "16"]) == 0
    made, other, own = (read_yaml(Path(name) / "config.yaml")["model"]["net"] for name in ("student", "other", "teacher"))
    assert made == {**own, "time_scale": 1000.0}
    assert other["channels"] == 16


def test_a_resumed_student_ends_with_the_same_bits(teacher, tmp_path):
    """Its objective depends on the share of the training that is done, its targets on the averaged weights and the teacher."""
    for preset in ("shortcut", "consistency"):
        straight, parts = tmp_path / f"{preset}-straight", tmp_path / f"{preset}-parts"
        more = ["--teacher", str(teacher), "--steps", "6", "--checkpoint-every", "3", "--validate-every", "0"]
        for out in (straight, parts):
            assert train(preset, out, *more) == 0
        for last in ("step-000006", "last", "best"):
            path = parts / "checkpoints" / last
            if path.is_dir():
                for file in path.iterdir():
                    file.unlink()
                path.rmdir()
        assert main(["train", preset, "--out", str(parts), "--resume"]) == 0
        one, other = (pf.load(out, weights="raw", checkpoint="last").state_dict() for out in (straight, parts))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("preset", "sampler"),
    [
        ("meanflow", pf.samplers.Jumps),
        ("shortcut", pf.samplers.Jumps),
        ("consistency", pf.samplers.Renoise),
        ("flow_matching", pf.samplers.Euler),
    ],
)
def test_steps_alone_are_jumps_of_a_few_step_model(preset, sampler, tmp_path):
    """They were those of Euler, which takes no jumps and solves no ODE of a consistency model."""
    model = getattr(pf.models, preset)(pf.nn.MLP.Config((8,)), (2,)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    pf.save(model, tmp_path / "model")
    for steps in (1, 2):
        assert main(["sample", str(tmp_path / "model"), "-n", "3", "--steps", str(steps), "--out", str(tmp_path / "x.npy")]) == 0
        expected = model.sample(3, sampler=sampler(steps), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(torch.from_numpy(numpy.load(tmp_path / "x.npy")), expected)


@pytest.mark.slow
def test_a_one_step_model_is_evaluated_without_a_likelihood(tmp_path, capsys):
    assert train("meanflow", tmp_path / "run", "--steps", "2", *NET) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--samples", "20", "--draws", "1", "--evaluations", "1", "2"]) == 0
    judged = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [row["evaluations"] for row in judged["quality"]] == [1, 2]
    assert "so the model has no log_prob" in capsys.readouterr().err
    assert (tmp_path / "run" / "trajectory.png").exists()


@pytest.mark.parametrize(
    ("preset", "more", "message"),
    [
        ("meanflow", ["--teacher", "nowhere"], "nowhere does not exist; give a run folder"),
        ("shortcut", ["--smallest", "100"], "smallest is 100, but steps are halved, so it is a power of 2"),
        ("meanflow", ["--guidance", "2"], "guidance is 2.0, but"),
    ],
)
def test_what_cannot_be_trained_is_refused(preset, more, message, tmp_path, capsys):
    assert train(preset, tmp_path / "run", "--steps", "2", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_shape_is_refused_before_anything_is_written(teacher, tmp_path, capsys):
    command = ["train", "meanflow", "--data", "digits", "--teacher", str(teacher), "--steps", "2", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "teacher has events of shape (2,), but the student's are (1, 8, 8); they must be equal." in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_sampled_or_evaluated_is_refused(tmp_path, capsys):
    assert train("shortcut", tmp_path / "run", "--steps", "2", *NET) == 0
    assert main(["sample", str(tmp_path / "run"), "--sampler", "jumps", "--steps", "3", "--out", str(tmp_path / "x.npy")]) == 2
    assert "use Jumps(steps) with a power of 2 up to 128" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--evaluations", "1", "3"]) == 2
    assert "use Jumps(steps) with a power of 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="only path models, such as rectified_flow, have such pairs"):
        main(["--debug", "reflow", str(tmp_path / "run")])
