"""Every option is checked before anything is loaded, removed or computed, of commands that read a run."""

import os

import numpy
import pytest
import torch
from examples import examples

import pushforward as pf
from pushforward.cli import main
from pushforward.cli.drawing import check_drawing
from pushforward.formats.run import checkpoints

QUICK = ["--steps", "2", "--batch-size", "16", "--block", "16"]
ABSENT = {  # options that are wrong for any run
    "sample": (
        "-n 0",
        "--steps 0",
        "--seed -1",
        "--batch-size 0",
        "--temperature 0",
        "--temperature nan",
        "--guidance inf",
        "--guidance apgg 2",
        "--guidance apg",
        "--guidance apg 2 norm",
        "--guidance apg 2 norm -1",
        "--guidance apg 2 norn 1",
        "--guidance cfg-plus-plus 7.5",
        "--guidance auto-guidance 2",
        "--sampler hen",
        "--sampler karras",
        "--sampler dopri5 --steps 3",
        "--sampler ddim --sampler-options eta 2",
        "--sampler ddim --sampler-options eta much",
        "--sampler ddim --sampler-options etta 0.5",
        "--sampler ddim --sampler-options steps 3 --steps 4",
        "--sampler ddim --sampler-options grid karas",
        "--sampler ddim --sampler-options grid euler",
        "--sampler ddim --sampler-options grid times",
        "--sampler ddim --sampler-options grid times grid.times [0.5,1]",
        "--sampler ddim --sampler-options grid times grid.times [1,0.5] --steps 3",
        "--sampler ddim --sampler-options grid.rho 5",
        "--sampler ddim --sampler-options grid karras grid.rh 5",
        "--sampler dpm-solver-pp --sampler-options lower_order_final perhaps",
        "--clip 2 1",
        "--clip 1 2 3",
        "--clip dynamic 2",
        "--clip dynamic 0.9 0.8",
        "--clip much",
        "--clip nan",
        "--out x.gif",
        "--out file/x.csv",
        "--out folder.png",
        "--out file",
        "--device abacus",
    ),
    "evaluate": (
        "--steps 0",
        "--sampler hen",
        "--sampler ddim --sampler-options etta 0.5",
        "--clip nan",
        "--guidance inf",
        "--device abacus",
    ),
    "reflow": ("--device abacus",),
    "distill": ("--device abacus",),
    "compare": ("--explain --device abacus",),
}


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


CASES = [(command, options) for command, these in ABSENT.items() for options in these]


@pytest.mark.parametrize(("command", "options"), CASES, ids=[f"{a} {b}" for a, b in CASES])
def test_a_wrong_option_is_refused_although_there_is_no_run(command, options, somewhere, capsys):
    assert main([command, "absent", *options.split()]) == 2
    said = capsys.readouterr().err
    assert "absent" not in said
    assert said.count("\n") == 1
    assert sorted(one.name for one in somewhere.iterdir()) == ["file", "folder.png"]
    assert (somewhere / "file").read_text() == "kept"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of three families, and one of the first with images."""
    folder = tmp_path_factory.mktemp("runs")
    moons = ["--data", "moons", "--data-options", "n", "100", *QUICK]
    small = ["net:mlp", "--net.hidden", "8"]
    assert main(["train", "rectified_flow", *moons, "--out", str(folder / "flow"), *small]) == 0
    assert main(["train", "rectified_flow", *moons, "--drop-cond", "0.1", "--out", str(folder / "dropped"), *small]) == 0
    assert main(["train", "ddpm", *moons, "--out", str(folder / "ddpm"), "net:mlp", "--net.hidden", "8"]) == 0
    assert main(["train", "nsf", *moons, "--out", str(folder / "nsf"), "--hidden", "8", "--layers", "1"]) == 0
    assert main(["train", "ffjord", *moons, "--out", str(folder / "ffjord"), "net:mlp", "--net.hidden", "8"]) == 0
    images = pf.models.rectified_flow(pf.nn.MLP.Config((4,)), (1, 4, 4), levels=17)
    pf.save(images, folder / "images")
    return folder


FITTING = (  # options that are wrong for the run: what is refused, and by which words
    ("sample flow --label 2", "the classes are"),
    ("sample images --label 0", "without classes"),
    ("sample flow --guidance 2", "drop_cond is 0"),
    ("sample images --guidance 2", "needs a condition"),
    ("sample nsf --guidance apg 2", "guidance"),
    ("sample ffjord --guidance apg 2", "has no use for it"),
    ("sample flow --guidance apg 2", "drop_cond is 0"),
    ("sample dropped --guidance cfg-plus-plus 0.5", "whose strength depends on a sampler's steps"),
    ("sample nsf --guidance 2", "guidance"),
    ("sample ffjord --guidance 2", "has no use for it"),
    ("sample nsf --clip 1", "predicts no data"),
    ("sample ffjord --clip 1", "predicts no data"),
    ("sample nsf --sampler euler", "sampler"),
    ("sample nsf --sampler-options rtol 1e-3", "does not solve an ODE"),
    ("sample ffjord --sampler ddpm", "does not solve the ODE"),
    ("sample flow --sampler-options eta 0.5", "option of dopri5"),
    ("sample flow --sampler-options rtol -1", "rtol"),
    ("sample ddpm --sampler-options variance big", "variance"),
    ("sample flow --sampler ddim --sampler-options grid knots", "needs a discrete path"),
    ("sample flow --sampler ddim --sampler-options grid times grid.times [0.9,0.5]", "the first time is 0.9"),
    ("sample ddpm --sampler ddim --steps 2000", "1000 knots"),
    ("sample flow --checkpoint step-9", "step-9"),
    ("sample images --out x.csv", "no rows of a table"),
    ("sample flow --out pictures", "no images"),
    ("evaluate flow --checkpoint step-9", "step-9"),
    ("evaluate nsf --sampler euler", "does not solve an ODE"),
    ("evaluate nsf --sampler-options rtol 1e-3", "does not solve an ODE"),
    ("evaluate nsf --clip 1", "predicts no data that could be clipped"),
    ("evaluate nsf --guidance 2", "no use for it"),
    ("evaluate flow --guidance 2", "guidance is"),
    ("evaluate ffjord --sampler ddpm", "does not solve the ODE"),
    ("evaluate flow --sampler ddim --sampler-options grid knots", "needs a discrete path"),
    ("evaluate images", "give --data"),
    ("reflow nsf", "only path models"),
    ("reflow flow --checkpoint step-9", "step-9"),
    ("reflow flow --out file/x", "is no folder"),
    ("reflow flow --out flow/../taken --rounds 2", "taken-2 exists already"),
    ("distill nsf", "only path models"),
    ("distill flow --out ddpm", "exists already"),
    ("distill flow --out flow --overwrite", "the run that the pairs come from"),
    ("compare flow absent", "absent is not a run"),
    ("compare flow images --explain", "compare runs of one shape"),
)


@pytest.mark.parametrize(("command", "words"), FITTING, ids=[command for command, _ in FITTING])
def test_an_option_that_does_not_fit_the_run_is_refused_before_weights_are_read(runs, tmp_path, capsys, monkeypatch, command, words):
    def fail(*arguments):
        raise AssertionError("weights were read")

    monkeypatch.chdir(runs)
    monkeypatch.setattr("pushforward.formats.model.read_weights", fail)
    (runs / "file").write_text("kept")
    (runs / "taken-2").mkdir(exist_ok=True)
    (runs / "taken-2" / "thesis.txt").write_text("kept")
    before = sorted(map(str, runs.rglob("*")))
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert sorted(map(str, runs.rglob("*"))) == before
    for run in ("flow", "ddpm"):
        assert checkpoints(run).names()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused_first_for_a_user(runs, tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert main(["sample", "absent", "--out", str(locked / "x.csv")]) == 2


def test_a_folder_that_cannot_be_written_is_refused_first(runs, tmp_path, capsys, monkeypatch):
    """As root every folder is writable, so the answer of the system is replaced."""
    monkeypatch.setattr("pushforward.cli.run.os.access", lambda path, mode: False)
    for command in (
        ["sample", "absent", "--out", str(tmp_path / "x.csv")],
        ["evaluate", str(runs / "flow")],
        ["reflow", str(runs / "flow"), "--out", str(tmp_path / "new")],
        ["demo", "--out", str(tmp_path / "new")],
    ):
        assert main(command) == 2
        assert "is not writable; give another path" in capsys.readouterr().err


def test_what_fits_is_not_refused(runs, tmp_path):
    """The checks accept what the verbs accept: each sampler with its defaults, and options of several kinds."""
    accepted = [
        "sample ddpm --sampler ddim --steps 3 --sampler-options eta 1 noise brownian grid knots grid.spacing linspace",
        "sample ddpm --sampler dpm-solver-pp --sampler-options variant 2S lower-order-final no grid times grid.times [1,0.6,0.2]",
        "sample ddpm --sampler uni-pc --steps 3 --sampler-options order 3 solver_type bh1 --clip dynamic",
        "sample ddpm --sampler-options variance large steps 3 --clip -3 3",
        "sample flow --sampler edm --steps 3 --sampler-options churn 2 grid.rho 5",
        "sample flow --sampler heun --steps 2 --sampler-options grid shifted grid.factor 2 --clip 3 dynamic 0.9 --guidance 1",
        "sample flow --sampler-options rtol 1e-3 max-steps 100",
        "sample ffjord --sampler rk4 --steps 2",
        "sample dropped --sampler heun --steps 2 --guidance apg 3 norm 2 parallel 0.5",
        "sample dropped --sampler ddim --steps 3 --guidance CFGPlusPlus 0.5 --clip 3",
        "sample dropped --guidance cfg-zero-star 2 zero 0.03 --sampler euler --steps 2",
        "sample nsf",
        "sample images --out {out}/pictures",
    ]
    for number, command in enumerate(accepted):
        words = command.format(out=tmp_path).split()
        out = [] if "--out" in words else ["--out", str(tmp_path / f"{number}.npy")]
        assert main([words[0], str(runs / words[1]), *words[2:], "-n", "3", *out]) == 0, command


@pytest.mark.parametrize("name", ["flow", "ddpm"])
def test_options_of_a_sampler_are_those_of_the_same_sampler_in_python(runs, tmp_path, name):
    given = ["--sampler", "ddim", "--sampler-options", "eta", "0.5", "grid", "times", "grid.times", "[1,0.7,0.4]", "--clip", "-1", "2"]
    out = tmp_path / "x.npy"
    assert main(["sample", str(runs / name), "-n", "6", "--seed", "3", *given, "--out", str(out)]) == 0
    model = pf.load(runs / name)
    made = model.sample(
        6,
        torch.arange(6) % 2,
        sampler=pf.samplers.DDIM(3, eta=0.5, grid=pf.samplers.Times((1.0, 0.7, 0.4))),
        guidance=pf.guidance.Clip(-1.0, 2.0),
        generator=torch.Generator().manual_seed(3),
    )
    assert numpy.array_equal(numpy.load(out), made.numpy())


@pytest.mark.parametrize("entry", examples("models"))
def test_every_preset_passes_the_checks_with_its_defaults(entry):
    model, _, cond = (*entry.example(), None)[:3]
    check_drawing(model, cond, None, None, 1.0)


@pytest.mark.parametrize(
    ("options", "what"), [("--device abacus", "abacus"), ("--out file", "file is a file"), ("--out .", "exists already")]
)
def test_train_checks_where_it_runs_before_it_reads_data(options, what, somewhere, capsys):
    assert main(["train", "nsf", "--data", "absent.csv", *options.split()]) == 2
    said = capsys.readouterr().err
    assert what in said
    assert "absent" not in said
