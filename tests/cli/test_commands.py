"""The command line as a user meets it: what a run holds, and one sentence for each mistake."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy
import pytest
import torch
import yaml

from pushforward.cli import COMMANDS, doctor, main
from pushforward.formats.model import load

TINY = ["train", "rectified_flow", "--data", "moons", "--data-options", "n", "200", "--steps", "12", "--batch-size", "32", "--block", "16"]
TINY += ["--validate-every", "6", "--checkpoint-every", "4", "--log-every", "4", "--warmup", "2"]
NET = ["net:mlp", "--net.hidden", "16", "16"]
FEW = ["--samples", "40", "--scored", "50", "--compared", "40"]


def train(out, *more, net=NET):
    return main([*TINY, "--out", str(out), *more, *net])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "moons"
    assert train(folder) == 0
    return folder


@pytest.fixture(scope="module")
def printed(run):
    """What `evaluate` prints of the run, which is evaluated once."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["evaluate", str(run), *FEW]) == 0
    return out.getvalue()


def sentence(capsys, arguments):
    """The exit status and what stands on stderr, of a command that fails."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


def same_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run_holds_config_metrics_checkpoints_and_samples(run):
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "samples"} <= {path.name for path in run.iterdir()}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert list(config) == ["preset", "model", "data", "training", "versions"]
    assert config["model"]["shape"] == [2]
    assert config["model"]["classes"] == 2
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [4, 6, 8, 12]
    assert [row["step"] for row in rows if "validation_loss" in row] == [6, 12]


def test_help_names_every_command_and_imports_no_torch():
    code = "import sys; from pushforward.cli import main; status = main(['--help']); sys.exit(status or ('torch' in sys.modules) * 3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_an_existing_run_is_refused_unless_it_is_to_be_overwritten(run, tmp_path, capsys):
    status, said = sentence(capsys, [*TINY, "--out", str(run), *NET])
    assert (status, "--overwrite" in said) == (2, True)
    again = shutil.copytree(run, tmp_path / "again")
    assert train(again, "--overwrite") == 0
    assert same_weights(load(again, checkpoint="last"), load(run, checkpoint="last"))


def test_a_folder_that_is_no_run_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    status, said = sentence(capsys, [*TINY, "--out", str(tmp_path), "--overwrite", *NET])
    assert (status, "not a run" in said) == (2, True)
    assert (tmp_path / "thesis.txt").exists()


def test_the_written_config_trains_the_same_model_again(run, tmp_path):
    assert main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "twin")]) == 0
    assert same_weights(load(tmp_path / "twin", checkpoint="last"), load(run, checkpoint="last"))


@pytest.mark.slow  # two processes of their own; tests/training/test_signals.py sends the signals of quick tests
def test_a_run_stopped_by_sigterm_saves_and_resumes_to_the_same_bits(tmp_path):
    out = tmp_path / "stopped"
    long = [*TINY, "--steps", "300", "--checkpoint-every", "0", "--validate-every", "0"]
    process = subprocess.Popen([sys.executable, "-m", "pushforward", *long, "--out", str(out), *NET], stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert 0 < int(re.search(r"stopped at step (\d+)", said).group(1)) < 300
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert main([*long, "--out", str(tmp_path / "whole"), *NET]) == 0
    assert same_weights(load(out, checkpoint="last"), load(tmp_path / "whole", checkpoint="last"))
    assert same_weights(load(out, "raw", "last"), load(tmp_path / "whole", "raw", "last"))


def test_an_evaluation_begins_with_data_that_have_changed_and_uses_the_options_of_its_sampler(run, tmp_path, capsys):
    changed = shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((changed / "config.yaml").read_text())
    (changed / "config.yaml").write_text(yaml.safe_dump(config | {"data": config["data"] | {"fingerprint": "0" * 16}}))
    few = ["--samples", "20", "--scored", "10", "--compared", "20", "--evaluations", "1"]
    few += ["--sampler", "heun", "--sampler-options", "grid", "shifted", "grid.factor", "2", "steps", "3"]
    assert main(["evaluate", str(changed), *few]) == 0
    assert capsys.readouterr().err.startswith("The data have changed since the training")
    numbers = json.loads((changed / "evaluation.json").read_text())
    assert numbers["verdict"][0].startswith("The data have changed since the training")
    assert numbers["sampler"].startswith("Heun(steps=3, grid=Shifted(factor=2.0")


@pytest.mark.parametrize("ending", [".png", ".npy", ".npz"])
def test_samples_are_written_as_picture_or_array(run, tmp_path, ending):
    out = tmp_path / f"samples{ending}"
    assert main(["sample", str(run), "-n", "6", "--sampler", "heun", "--steps", "3", "--label", "1", "--out", str(out)]) == 0
    if ending == ".npy":
        assert numpy.load(out).shape == (6, 2)
    elif ending == ".npz":
        assert numpy.load(out)["y"].tolist() == [1] * 6
    else:
        assert out.read_bytes().startswith(b"\x89PNG")


def test_samples_of_one_seed_are_the_same_and_of_another_are_not(run, tmp_path):
    outs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(["sample", str(run), "-n", "4", "--seed", str(seed), "--out", str(tmp_path / f"{name}.npy")]) == 0
        outs.append(numpy.load(tmp_path / f"{name}.npy"))
    assert numpy.array_equal(outs[0], outs[1])
    assert not numpy.allclose(outs[0], outs[2])


def test_evaluate_writes_one_self_contained_report(run, printed):
    report = (run / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 4
    assert not re.search(r"(src|href)=\"(?!data:)", report)  # nothing is fetched from anywhere
    assert f"pushforward evaluate {run} {' '.join(FEW)}" in report
    numbers = json.loads((run / "evaluation.json").read_text())
    assert [row["evaluations"] for row in numbers["quality"]] == [1, 2, 4, 8, 16, 64]
    assert len(numbers["likelihood"]) == 7
    assert "report.html" in printed


@pytest.mark.parametrize(
    ("preset", "data"), [("nsf", ["moons", "--data-options", "n", "200"]), pytest.param("nice", ["digits"], marks=pytest.mark.slow)]
)
def test_a_discrete_flow_trains_resumes_samples_and_is_evaluated(preset, data, tmp_path, capsys):
    """Images are flattened inside; what only an ODE has is left out of its report, and refused by name."""
    folder = tmp_path / "run"
    options = ["train", preset, "--data", *data, "--out", str(folder), "--hidden", "16", "16", "--layers", "2", "--batch-size", "32"]
    assert main([*options, "--steps", "4"]) == 0
    assert main(["train", "--out", str(folder), "--steps", "6", "--resume"]) == 0
    assert main(["sample", str(folder), "-n", "4", "--out", str(tmp_path / "made.npy")]) == 0
    assert numpy.load(tmp_path / "made.npy").shape == (4, *load(folder).shape)
    assert main(["evaluate", str(folder), *FEW]) == 0
    numbers = json.loads((folder / "evaluation.json").read_text())
    assert numbers["quality"] == []
    assert numbers["divergence"] is None
    status, said = sentence(capsys, ["evaluate", str(folder), "--sampler", "euler"])
    assert status in (1, 2)
    assert f"{preset} does not solve an ODE; leave them out" in said


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (["moons", "--data-options", "n", "200"], ["loss-sampler:rk4", "--loss-sampler.steps", "2", "--loss-sampler.adjoint"]),
        pytest.param(["digits"], [], marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_continuous_flow_trains_resumes_samples_and_is_evaluated(data, more, tmp_path, capsys):
    folder, coarse = tmp_path / "run", ["--sampler", "heun", "--steps", "2"]
    options = ["train", "ffjord", "--data", *data, "--out", str(folder), "--batch-size", "32", "--kinetic", "0.01", "--jacobian", "0.01"]
    parts = ["net:mlp", "--net.hidden", "16", "16", *more]
    assert main([*options, "--steps", "3", *parts]) == 0
    assert main(["train", "--out", str(folder), "--steps", "4", "--resume"]) == 0
    assert main(["sample", str(folder), "-n", "4", "--out", str(tmp_path / "made.npy")]) == 0
    assert numpy.load(tmp_path / "made.npy").shape == (4, *load(folder).shape)
    assert main(["evaluate", str(folder), "--samples", "40", "--scored", "50", "--evaluations", "1", "2", *coarse]) == 0
    assert [row["evaluations"] for row in json.loads((folder / "evaluation.json").read_text())["quality"]] == [1, 2]
    status, said = sentence(capsys, ["sample", str(folder), "--guidance", "2"])
    assert (status, "a continuous flow has no use for it" in said) == (2, True)


def test_info_says_what_the_run_is(run, capsys):
    assert main(["info", str(run)]) == 0
    said = capsys.readouterr().out
    assert "rectified_flow" in said
    assert "step 12 of 12" in said
    assert "intact" in said


def test_list_prints_a_group_without_torch():
    code = "import sys; from pushforward.cli import main; main(['list', 'samplers']); sys.exit(('torch' in sys.modules) * 3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Dopri5" in done.stdout


def test_doctor_finds_what_is_needed(capsys, monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "app", ("no_such_package",))
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch" in said
    assert "[app]" in said  # the hint's brackets are not taken for markup


def test_doctor_sees_what_is_in_the_way_of_torch_compile(capsys, monkeypatch):
    monkeypatch.setattr(torch, "__file__", "/home/ada/my models/torch/__init__.py")
    assert main(["doctor"]) == 0
    assert "not on the CPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["trian"], ["'trian'", "'train'"]),
        (["train"], ["needs a preset", "rectified_flow"]),
        (["train", "rectified_flw", "--data", "moons"], ["rectified_flw", "'rectified_flow'"]),
        (["train", "rectified_flow"], ["needs data", "--data moons"]),
        (["train", "rectified_flow", "--data", "mons"], ["mons", "moons"]),
        (["train", "rectified_flow", "--data", "no/such.csv"], ["no/such.csv"]),
        ([*TINY[:4], "--steps", "0"], ["steps", "0", "at least 1"]),
        ([*TINY[:4], "--batch-size", "100", "--block", "64"], ["block", "64", "such as 50"]),
        ([*TINY[:4], "--lr", "-1"], ["lr", "-1", "positive"]),
        ([*TINY[:4], "--drop-cond", "2"], ["drop_cond", "2"]),
        ([*TINY[:4], "--device", "abacus"], ["abacus", "doctor"]),
        ([*TINY[:4], "--resume"], ["--resume", "--out"]),
        ([*TINY[:4], "--stpes", "3"], ["--stpes"]),
        ([*TINY[:4], "net:unet"], ["UNet", "images"]),
        (["list", "sampler"], ["sampler", "'samplers'"]),
        (["sample", "no/such/run"], ["no/such/run", "does not exist"]),
        (["info", "no/such/run"], ["no/such/run"]),
        (["evaluate", "no/such/run"], ["no/such/run"]),
    ],
)
def test_what_the_user_wrote_wrongly_is_said_in_one_sentence(arguments, fragments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said = sentence(capsys, arguments)
    assert status == 2
    assert "Traceback" not in said
    for fragment in fragments:
        assert fragment in said


@pytest.mark.parametrize(
    ("more", "fragments"),
    [
        (["--label", "2"], ["--label", "2", "0 to 1"]),
        (["--sampler", "hen"], ["hen", "'heun'"]),
        (["--sampler", "dopri5", "--steps", "3"], ["--steps", "dopri5"]),
        (["--sampler", "uniform"], ["uniform", "not a sampler"]),
        (["--out", "x.gif"], ["x.gif", ".png"]),
        (["-n", "0"], ["-n", "0"]),
        (["--guidance", "2", "--checkpoint", "step-999999"], ["step-999999", "step-0000"]),
        (["--temperature", "0"], ["temperature", "positive"]),
    ],
)
def test_sample_refuses_by_name(run, more, fragments, capsys):
    status, said = sentence(capsys, ["sample", str(run), *more])
    assert status in (1, 2)
    for fragment in fragments:
        assert fragment in said


def test_resuming_another_model_is_refused_naming_the_setting(run, capsys):
    status, said = sentence(capsys, ["train", "rectified_flow", "--resume", "--out", str(run), "net:mlp", "--net.hidden", "32"])
    assert (status, "model.net" in said) == (2, True)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ("training: {stpes: 3}", ["stpes", "'steps'"]),
        ("training: {steps: many}", ["training.steps", "'many'", "int"]),
        ("modle: {}", ["modle", "'model'"]),
        ("model: {drop_conds: 1}", ["drop_conds", "'drop_cond'"]),
        ("model: {net: {name: nn.MLPP}}", ["nn.MLPP", "nn.MLP"]),
        ("model: {net: {name: nn.MLP, hiden: [3]}}", ["hiden", "'hidden'"]),
        ("model: !!python/object/apply:os.system ['touch HACKED']", ["plain YAML"]),
        ("just a sentence", ["mapping"]),
    ],
)
def test_a_wrong_config_is_refused_with_the_nearest_name(change, fragments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(change if "sentence" in change else f"preset: rectified_flow\ndata: {{name: moons}}\n{change}\n")
    status, said = sentence(capsys, ["train", "--config", str(file)])
    assert status == 2
    for fragment in fragments:
        assert fragment in said
    assert not (tmp_path / "HACKED").exists()


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_offered(run, tmp_path, capsys):
    out = shutil.copytree(run, tmp_path / "run")
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    status, said = sentence(capsys, ["sample", str(out), "--checkpoint", newest.name, "--out", str(tmp_path / "x.npy")])
    assert status == 1
    assert "truncated" in said
    assert sorted((out / "checkpoints").glob("step-*"))[-2].name in said


def test_a_pickle_in_place_of_weights_is_never_opened(run, tmp_path, capsys):
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/HACKED",)

    folder = tmp_path / "model"
    shutil.copytree(sorted((run / "checkpoints").glob("step-*"))[-1], folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    (folder / "manifest.json").write_text("{}")
    status, _ = sentence(capsys, ["sample", str(folder), "--out", str(tmp_path / "x.npy")])
    assert status == 1
    assert not (tmp_path / "HACKED").exists()


def test_data_with_nan_is_refused_naming_the_row(tmp_path, capsys):
    array = numpy.zeros((20, 2), dtype=numpy.float32)
    array[7, 1] = numpy.nan
    numpy.save(tmp_path / "x.npy", array)
    status, said = sentence(capsys, ["train", "rectified_flow", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run")])
    assert status == 2
    assert "NaN" in said or "nan" in said


def test_a_loss_that_is_not_finite_names_step_rate_and_checkpoint(tmp_path, capsys):
    status, said = sentence(capsys, [*TINY, "--out", str(tmp_path / "run"), "--lr", "1e30", "--clip", "0", "--warmup", "0", *NET])
    assert status == 1
    for fragment in ("step", "learning rate", "no checkpoint was written before; start again with a smaller --lr"):
        assert fragment in said


def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status, said = sentence(capsys, [*TINY, "--out", str(tmp_path / "file" / "run"), *NET])
    assert status in (1, 2)
    assert str(tmp_path / "file") in said


@pytest.mark.slow
def test_the_demo_reaches_its_bars(tmp_path):
    """The bars of the main job: 97 % recognised, better likelihood than all others, at most 1.5 times the distance of training data."""
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-m", "pushforward", "demo", "--out", str(tmp_path / "demo")], check=True, env=environment)
    assert time.monotonic() - began < 600  # the two minutes are measured by hand on an idle machine; this only guards against a hang
    judged = json.loads((tmp_path / "demo" / "evaluation.json").read_text())
    own, *others = judged["likelihood"]
    assert judged["recognised"] >= 0.97
    assert own["conditional"] < min(row["conditional"] for row in others if row["conditional"] is not None)
    assert own["mixture"] < min(row[name] for row in others for name in ("pooled", "mixture") if row[name] is not None)
    assert judged["distance"] <= 1.5 * judged["distance_train"]


IMAGES = ["--data", "digits", "--steps", "4", "--batch-size", "32", "--block", "16", "--depth", "1", "--hidden", "4"]
IMAGES += ["--validate-every", "4", "--checkpoint-every", "2", "--log-every", "2", "--warmup", "2"]


@pytest.mark.parametrize("preset", ["glow", "realnvp_image"])
def test_a_flow_of_images_trains_goes_on_and_draws_from_the_command_line(preset, tmp_path):
    out = tmp_path / preset
    assert main(["train", preset, *IMAGES, "--levels", "1", "--out", str(out)]) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())["model"]
    assert (config["shape"], config["values"], config["levels"], config["preprocess"]) == ([1, 8, 8], 17, 1, "auto")
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert load(out).levels == 17
    assert main(["sample", str(out), "-n", "4", "--out", str(tmp_path / "drawn.npy")]) == 0
    drawn = numpy.load(tmp_path / "drawn.npy")
    assert (drawn.shape, drawn.dtype, bool((drawn >= -1).all())) == ((4, 1, 8, 8), numpy.dtype("float32"), True)


def test_levels_that_images_do_not_allow_are_one_sentence(tmp_path, capsys):
    status, said = sentence(capsys, ["train", "glow", *IMAGES, "--levels", "4", "--out", str(tmp_path / "deep")])
    assert (status, "8 allows 3 (8 -> 4 -> 2 -> 1); give levels=3 at most" in said) == (2, True)


def test_reflow_and_distill_make_runs_that_resume_sample_and_are_evaluated(run, tmp_path, capsys):
    quick = ["--pairs", "40", "--steps", "4", "--out", str(tmp_path / "flow")]
    assert main(["reflow", str(run), "--rounds", "2", *quick]) == 0
    assert "straightness" in capsys.readouterr().out
    first, second = tmp_path / "flow-1", tmp_path / "flow-2"
    config = yaml.safe_load((second / "config.yaml").read_text())
    assert config["reflow"] == {"of": str(first), "round": 2}
    before = (second / "config.yaml").stat().st_mtime_ns
    assert main(["reflow", str(run), "--rounds", "2", *quick, "--resume"]) == 0  # both are done: nothing is written
    assert (second / "config.yaml").stat().st_mtime_ns == before
    longer = ["--pairs", "40", "--steps", "6", "--out", str(tmp_path / "flow")]
    assert main(["reflow", str(run), *longer, "--resume"]) == 0
    assert main(["info", str(first)]) == 0
    assert "step 6 of 6" in capsys.readouterr().out
    status, said = sentence(capsys, ["reflow", str(run), *quick])
    assert (status, "--overwrite" in said) == (2, True)

    one = tmp_path / "one"
    assert main(["distill", str(first), "--pairs", "40", "--steps", "4", "--out", str(one)]) == 0
    assert main(["sample", str(one), "-n", "4", "--out", str(tmp_path / "made.npy")]) == 0
    assert main(["evaluate", str(one), *FEW]) == 0
    numbers = json.loads((one / "evaluation.json").read_text())
    assert [row["evaluations"] for row in numbers["quality"]] == [1]
    assert numbers["likelihood"][0]["conditional"] is None


def test_reflow_of_what_has_no_trajectories_is_refused(tmp_path, capsys):
    folder = tmp_path / "nice"
    assert main(["train", "nice", "--data", "moons", "--steps", "1", "--out", str(folder), "--hidden", "8"]) == 0
    status, said = sentence(capsys, ["reflow", str(folder)])
    assert (status, "holds a NormalizingFlow" in said) == (2, True)
    status, said = sentence(capsys, ["reflow", str(folder), "--rounds", "0"])
    assert (status, "--rounds is 0" in said) == (2, True)


@pytest.mark.usefixtures("printed")
def test_compare_puts_runs_side_by_side_and_explains_them(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["compare", "--reported", str(run), str(run)]) == 0
    said = capsys.readouterr().out
    assert all(row in said for row in ("preset", "12 steps", "nats per row, mixture", "distance at 16 evaluations"))
    assert main(["compare", "--explain", str(run)]) == 0
    assert "regression on the conditional velocity" in capsys.readouterr().out
    assert main(["compare", "--explain"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("normalizing flow", "continuous flow", "diffusion", "regression on the conditional noise"))
    status, said = sentence(capsys, ["compare"])
    assert (status, "--explain" in said) == (2, True)


def test_compare_keeps_units_apart(run, tmp_path, capsys, monkeypatch):
    """An evaluation without units is of an earlier version: in bits and in the data's units."""
    monkeypatch.setenv("COLUMNS", "200")
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        shutil.copytree(run, folder)
    part = {"density": "this model"} | {name: 1.0 for kind in ("pooled", "conditional", "mixture") for name in (kind, f"{kind}_error")}
    numbers = {"examples": 9, "split": "test", "likelihood": [part], "recognised": None, "closer_to_train": 0.5, "sampler": "euler"}
    numbers |= {f"distance{end}": 0.25 for end in ("", "_std", "_train", "_train_std")} | {"seconds_per_1000_samples": 1.0, "quality": []}
    (old / "evaluation.json").write_text(json.dumps(numbers))
    numbers |= {"likelihood_unit": "nats per row", "dimensions": 10, "distance_unit": "standardised"}
    (new / "evaluation.json").write_text(json.dumps(numbers))
    assert main(["compare", "--reported", str(old), str(new)]) == 0
    printed = capsys.readouterr()
    rows = {
        cells[0]: cells[1:] for line in printed.out.splitlines() if len(cells := [one.strip() for one in line.strip("│").split("│")]) == 3
    }
    assert rows["bits per dimension, pooled"] == ["1.000 ± 1.000"] * 2
    assert rows["nats per row, pooled"] == ["–", "6.931 ± 6.931"]  # 10 log 2
    assert rows["sliced Wasserstein to data"] == ["0.250 ± 0.250", "–"]
    assert rows["standardised sliced Wasserstein to data"] == ["–", "0.250 ± 0.250"]
    assert "different units" in printed.err
    assert main(["compare", "--reported", str(new), str(new)]) == 0
    printed = capsys.readouterr()
    assert "bits per dimension" not in printed.out
    assert "different units" not in printed.err


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_tables_report_leads_with_what_is_wrong_and_names_columns_and_units(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "wine"
    options = ["--steps", "3", "--layers", "1", "--hidden", "8", "--batch-size", "32", "--out", str(folder)]
    assert main(["train", "nsf", "--data", "wine", *options, "--validate-every", "2"]) == 0
    assert main(["evaluate", str(folder), "--samples", "60"]) == 0
    printed = capsys.readouterr().out
    assert "worse than a Gaussian" in printed
    assert "nats per row, mixture" in printed
    assert "standardised sliced Wasserstein" in printed
    assert "bits" not in printed
    report = (folder / "report.html").read_text()
    assert report.index("worse than a Gaussian") < report.index('class="cards"')
    assert "in nats per row (lower is better)" in report
    assert "in standard deviations of the columns" in report
    assert "the 7 of 13 columns" in report
    assert "the data's units" not in report
    assert not (folder / "samples.png").exists()
    assert all((folder / f"{name}.png").exists() for name in ("marginals", "corner"))
    numbers = json.loads((folder / "evaluation.json").read_text())
    assert numbers["verdict"]
    assert {"marginals.png", "corner.png"} <= {path.name for path in folder.iterdir()}
    assert main(["train", "nsf", "--data", "wine", *options, "--overwrite"]) == 0
    assert not (folder / "corner.png").exists()
