"""`pushforward compare`: one table of models that are trained or loaded, what it refuses, and that it loses nothing."""

import csv
import itertools
import json
import re
import shutil

import numpy
import pytest
import torch

from pushforward.cli import budget, comparing, main
from pushforward.cli.contestants import check_same_data, labels_of
from pushforward.cli.run import run_config
from pushforward.errors import UserError
from pushforward.formats.run import checkpoints

SMALL = ["--samples", "12", "--scored", "4", "--evaluations", "1", "2"]
NICE, FLOW, FEW = "nice --hidden 8", "flow_matching net:mlp --net.hidden 8", "meanflow net:mlp --net.hidden 8"
BUDGET = ["--data", "moons", "--data-options", "n", "60", "--train-steps", "2"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of three models and two seeds."""
    out = tmp_path_factory.mktemp("compared") / "c"
    assert main(["compare", NICE, FLOW, FEW, *BUDGET, *SMALL, "--seeds", "0", "1", "--out", str(out)]) == 0
    return out


def table(out):
    return json.loads((out / "table.json").read_text())


def sentence(capsys, arguments):
    capsys.readouterr()
    status = main(["compare", *arguments])
    return status, capsys.readouterr().err.strip()


def test_one_table_has_all_models_at_their_evaluations(compared):
    rows = table(compared)["rows"]
    assert [(row["model"], row["evaluations"]) for row in rows] == [
        ("nice", None), ("flow_matching", 1), ("flow_matching", 2), ("meanflow", 1), ("meanflow", 2), ("training data", 0),
    ]  # fmt: skip
    assert all(row["seeds"] == 2 for row in rows[:-1])
    cells = rows[1]["cells"]
    values = [one["samples"][0]["scores"]["recall"] for one in table(compared)["models"]["flow_matching"]]
    assert cells["recall"]["mean"] == pytest.approx(sum(values) / 2)
    assert cells["recall"]["sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert rows[3]["cells"]["likelihood"]["mean"] is None  # a few-step model has no log_prob, and a reason
    assert "log_prob" in rows[3]["cells"]["likelihood"]["reason"]
    assert rows[-1]["cells"]["precision"]["mean"] > 0.5


def test_labels_leave_out_what_models_of_a_preset_have_in_common():
    typed = ["nice --hidden 8", "maf --layers 2 --hidden 8", "maf --layers 2 --hidden 16", "maf --layers 2"]
    assert labels_of(typed) == ["nice", "maf --hidden 8", "maf --hidden 16", "maf"]
    assert labels_of(["tarflow --depth 1", "tarflow --depth 1 2"]) == ["tarflow --depth 1", "tarflow --depth 1 2"]
    assert labels_of(["ddpm net:mlp --lr 1", "ddpm net:mlp --lr -1"]) == ["ddpm --lr 1", "ddpm --lr -1"]
    assert labels_of(["ddpm net:mlp", "ddpm net:dit"]) == ["ddpm net:mlp", "ddpm net:dit"]


def test_csv_and_page_show_the_same_table_without_the_network(compared):
    rows = list(csv.DictReader((compared / "table.csv").open()))
    assert len(rows) == 6
    assert float(rows[2]["coverage"]) == table(compared)["rows"][2]["cells"]["coverage"]["mean"]
    assert rows[3]["likelihood"] == ""
    page = (compared / "table.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:)[^\"]*", page)
    assert "url(" not in page
    assert page.count("<tr data-count") == 6
    assert "—" in page
    assert page.count("<figure") == 4  # quality, and the samples of three models


def test_the_same_command_finds_its_runs_and_results_again(compared, monkeypatch):
    before = (compared / "table.csv").read_text()
    monkeypatch.setattr(comparing, "start", lambda *a, **k: pytest.fail("trained again"))
    monkeypatch.setattr(comparing, "measure", lambda *a, **k: pytest.fail("measured again"))
    assert main(["compare", NICE, FLOW, FEW, *BUDGET, *SMALL, "--seeds", "0", "1", "--out", str(compared)]) == 0
    assert (compared / "table.csv").read_text() == before


def test_runs_given_by_hand_are_grouped_over_seeds(compared, tmp_path, capsys):
    runs = [
        str(compared / "runs" / f"{name}-seed{seed}") for name in ("nice-hidden-8", "flow_matching-net-mlp-net.hidden-8") for seed in (0, 1)
    ]
    assert main(["compare", *runs, *SMALL, "--out", str(tmp_path / "c")]) == 0
    rows = table(tmp_path / "c")["rows"]
    assert [(row["model"], row["seeds"]) for row in rows[:-1]] == [("nice", 2), ("flow_matching", 2), ("flow_matching", 2)]
    assert rows[0]["cells"]["recall"] == table(compared)["rows"][0]["cells"]["recall"]
    assert "±" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_of_any_name_keep_their_own_picture_and_are_measured_once(compared, tmp_path, monkeypatch):
    runs = []
    for place, name in enumerate(("甲", "乙", "x y", "x-y", "z" * 200)):
        runs.append(tmp_path / name)
        shutil.copytree(compared / "runs" / "nice-hidden-8-seed0", runs[-1])
        config = (runs[-1] / "config.yaml").read_text()
        (runs[-1] / "config.yaml").write_text(re.sub(r"(?m)^  lr: .*", f"  lr: 0.{place + 1}", config))
    arguments = ["compare", *map(str, runs), *SMALL, "--out", str(tmp_path / "c")]
    assert main(arguments) == 0
    pictures = list((tmp_path / "c" / "samples").iterdir())
    assert len(pictures) == len(runs)
    pictures[0].write_bytes(b"another model's")
    monkeypatch.setattr(comparing, "measure", lambda *a, **k: pytest.fail("measured again"))
    assert main(arguments) == 0
    assert pictures[0].read_bytes() != b"another model's"


@pytest.mark.parametrize("content", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("", "{}", "[]")), '{"samples": [{}]}'])
def test_a_damaged_measurement_is_taken_again(compared, tmp_path, content):
    run, out = str(compared / "runs" / "nice-hidden-8-seed0"), tmp_path / "c"
    assert main(["compare", run, *SMALL, "--out", str(out)]) == 0
    before = table(out)["rows"][0]["cells"]["recall"]
    (kept,) = (out / "measured").glob("*.json")
    kept.write_text(content)
    assert main(["compare", run, *SMALL, "--out", str(out)]) == 0
    assert table(out)["rows"][0]["cells"]["recall"] == before


def test_events_that_have_no_picture_are_measured_once(tmp_path, monkeypatch):
    numpy.save(tmp_path / "x.npy", numpy.random.default_rng(0).standard_normal((60, 3)).astype("float32"))
    arguments = ["compare", NICE, "--data", str(tmp_path / "x.npy"), "--train-steps", "2", *SMALL, "--out", str(tmp_path / "c")]
    assert main(arguments) == 0
    monkeypatch.setattr(comparing, "measure", lambda *a, **k: pytest.fail("measured again"))
    assert main(arguments) == 0


def test_a_failed_model_does_not_lose_the_others(tmp_path, capsys):
    bad = "nice --hidden 8 --lr 1e20 --clip 1e30 --warmup 0 --skip-limit 1"
    out = tmp_path / "c"
    assert main(["compare", bad, NICE, *BUDGET[:-1], "30", *SMALL, "--out", str(out)]) == 1
    rows = table(out)["rows"]
    assert [(row["model"], row["seeds"]) for row in rows] == [
        ("nice --lr 1e20 --clip 1e30 --warmup 0 --skip-limit 1", 0),
        ("nice", 1),
        ("training data", 1),
    ]
    assert "failed" in rows[0]["cells"]["recall"]["reason"]
    assert rows[1]["cells"]["recall"]["mean"] is not None
    assert "failed: " in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_comparison_keeps_what_it_has_and_continues(tmp_path, monkeypatch, capsys):
    out, arguments = tmp_path / "c", ["compare", NICE, FLOW, *BUDGET, *SMALL]
    fit = comparing.Training.trained

    def stopping(self, contestant, seed):
        if contestant.preset == "flow_matching":
            raise comparing.StoppedError(2)
        return fit(self, contestant, seed)

    with monkeypatch.context() as patch:
        patch.setattr(comparing.Training, "trained", stopping)
        assert main([*arguments, "--out", str(out)]) == 130
    assert "continues" in capsys.readouterr().err
    assert [row["model"] for row in table(out)["rows"]] == ["nice", "training data"]
    written = checkpoints(out / "runs" / "nice-hidden-8-seed0").newest_whole().stat().st_mtime_ns
    assert main([*arguments, "--out", str(out)]) == 0
    assert len(table(out)["rows"]) == 4
    assert checkpoints(out / "runs" / "nice-hidden-8-seed0").newest_whole().stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_checkpoint_has_the_steps_up_to_it(tmp_path):
    run = tmp_path / "run"
    options = ["--data", "moons", "--data-options", "n", "60", "--steps", "2", "--checkpoint-every", "1", "--out", str(run)]
    assert main(["train", "nice", "--hidden", "8", *options]) == 0
    for checkpoint, steps in (("step-000001", 1), ("best", 2)):
        assert main(["compare", str(run), *SMALL, "--checkpoint", checkpoint, "--out", str(tmp_path / checkpoint)]) == 0
        assert table(tmp_path / checkpoint)["models"]["nice"][0]["steps"] == steps


def test_a_first_step_that_imports_does_not_use_up_a_short_budget(monkeypatch):
    clock = budget._Clock(1.0, torch.device("cpu"))
    times = iter([3.0, 3.01, 3.02])  # the first step takes far longer than the budget
    monkeypatch.setattr(clock, "now", lambda: next(times))
    for _ in range(3):
        clock.on_every_step(None)
    assert clock.step == pytest.approx(0.01)


def test_a_validation_that_is_far_too_long_is_not_timed():
    clock = budget._Clock(6.0, torch.device("cpu"), losses=100.0)
    ticks = itertools.count()
    clock.now = lambda: float(next(ticks))
    for _ in range(3):
        clock.on_every_step(None)
    with pytest.raises(budget._EnoughError):  # a third of 100 steps
        clock.on_every_step(None)
    assert clock.step == 1
    assert clock.validation == pytest.approx(100 / 3)


def test_seconds_become_steps(tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(budget._Clock, "now", lambda clock: next(ticks) / 64)  # each step and each validation takes 1/64 s
    out = tmp_path / "c"
    assert main(["compare", FLOW, *BUDGET[:-2], "--seconds", "0.5", *SMALL, "--out", str(out)]) == 0
    made = table(out)
    assert made["models"]["flow_matching"][0]["steps"] == 24  # a quarter of the time is 8 validations
    took = made["models"]["flow_matching"][0]["seconds"]
    assert ("not trained equally" in made["notes"][0]) == (not 0.5 / 1.5 < took < 0.5 * 1.5)


def test_a_model_whose_validation_does_not_fit_is_trained_without_one(tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(budget._Clock, "now", lambda clock: next(ticks) / 64)
    command = ["compare", FLOW, *BUDGET[:-2], "--seconds", "0.05", *SMALL, "--out", str(tmp_path / "c")]
    assert main(command) == 0
    made, run = table(tmp_path / "c")["models"]["flow_matching"][0], next((tmp_path / "c" / "runs").iterdir())
    assert made["steps"] == 3  # all of the time
    assert "validation_loss" not in (run / "metrics.jsonl").read_text()
    assert run_config(run)["training"]["validate_every"] == 0
    assert main(command) == 0  # the run is found again, and its last weights are measured as before
    assert table(tmp_path / "c")["models"]["flow_matching"][0] == made


@pytest.mark.parametrize(
    ("arguments", "stated"),
    [
        (["nonesuch", *BUDGET], "known preset"),
        (["runs/nonesuch", *BUDGET], "runs/nonesuch is not a run"),
        ([NICE, "--data", "moons"], "--seconds 60 or --train-steps"),
        ([NICE, *BUDGET, "--seconds", "3"], "one budget"),
        ([NICE, "--train-steps", "3"], "need data"),
        ([NICE, NICE, *BUDGET], "given twice"),
        (["glow", *BUDGET], "glow does not fit moons"),
        (["nice --activation '", *BUDGET], "check the quotes"),
        (["nice --steps 7", *BUDGET], "--steps"),
        (["nice --out x", *BUDGET], "option of the run"),
        (["nice --hiden 7", *BUDGET], "--hiden"),
        ([NICE, *BUDGET, "--seeds", "1", "1"], "each once"),
        ([NICE, "--data", "moons", "--data-options", "n", "5", "--train-steps", "2"], "6 of each at least"),
        ([NICE, *BUDGET, "--samples", "2"], "--samples is 2"),
        ([NICE, *BUDGET, "--evaluations", "0"], "--evaluations is 0"),
        ([NICE, *BUDGET, "--seconds", "-1"], "--seconds"),
        ([NICE, "--data", "nonesuch", "--train-steps", "2"], "nonesuch"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys, arguments, stated):
    monkeypatch.chdir(tmp_path)
    status, said = sentence(capsys, arguments)
    assert status == 2
    assert stated in said
    assert said.count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_runs_of_different_data_and_folders_of_other_things_are_refused(compared, tmp_path, capsys):
    run, other = compared / "runs" / "nice-hidden-8-seed0", tmp_path / "other"
    shutil.copytree(run, other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(re.sub("name: moons", "name: spirals", config))
    status, said = sentence(capsys, [str(run), str(other)])
    assert (status, "was trained on spirals" in said, "same data" in said) == (2, True, True)
    status, said = sentence(capsys, [str(run), str(run)])
    assert (status, "given twice" in said) == (2, True)
    status, said = sentence(capsys, [str(run), "--data", "moons"])
    assert (status, "only runs are given" in said) == (2, True)
    status, said = sentence(capsys, [str(run), "--out", str(other)])
    assert (status, "holds no comparison" in said) == (2, True)
    status, said = sentence(capsys, [NICE, *BUDGET[:-1], "5", "--out", str(compared)])
    assert (status, "train-steps 2, not 5" in said) == (2, True)


def test_columns_may_be_written_in_any_way(tmp_path):
    """`given age` and `given "[age]"` are the same data, as their fingerprint is."""
    for name, given in (("a", "age"), ("b", "[age]"), ("c", "[age, sex]"), ("d", "[sex, age]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"data:\n  name: x.csv\n  given: {given}\n")
    assert check_same_data([tmp_path / "a", tmp_path / "b"], None)["given"] == "age"
    check_same_data([tmp_path / "c", tmp_path / "d"], None)
    with pytest.raises(UserError, match="compare models of the same data"):
        check_same_data([tmp_path / "b", tmp_path / "c"], None)


def test_data_that_changed_since_a_run_was_trained_are_refused(tmp_path, capsys):
    path, out = tmp_path / "x.npy", tmp_path / "c"
    numpy.save(path, numpy.random.default_rng(0).standard_normal((60, 2)).astype("float32"))
    arguments = [NICE, "--data", str(path), "--train-steps", "2", *SMALL, "--out", str(out)]
    assert main(["compare", *arguments]) == 0
    before = (out / "table.csv").read_text()
    numpy.save(path, numpy.random.default_rng(1).standard_normal((60, 2)).astype("float32"))
    for again in (arguments, [str(out / "runs" / "nice-hidden-8-seed0"), *SMALL]):
        status, said = sentence(capsys, again)
        assert (status, "content has changed" in said) == (2, True)
    assert (out / "table.csv").read_text() == before
