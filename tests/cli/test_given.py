"""Conditions that are columns of a table on the command line: train, sample, evaluate, compare."""

import csv
import json
import shlex

import numpy
import pandas
import pytest
import torch
import yaml

import pushforward as pf
from pushforward.cli import main

QUICK = ["--steps", "3", "--batch-size", "64", "--validate-every", "3"]
OPTIONS = ["--data-options", "given", "[age, city]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table with a comma in a word, and a run on it."""
    folder, rng = tmp_path_factory.mktemp("given"), numpy.random.default_rng(0)
    columns = {
        "height": rng.normal(size=60),
        "city": rng.choice(["Paris, France", "Rome"], 60),
        "age": rng.integers(20, 60, 60),
        "kids": rng.integers(0, 5, 60),
    }
    pandas.DataFrame(columns).to_csv(folder / "people.csv", index=False)
    arguments = ["--data", str(folder / "people.csv"), "--out", str(folder / "run"), "--layers", "1", "--hidden", "8"]
    assert main(["train", "nsf", *arguments, *OPTIONS, *QUICK]) == 0
    return folder


def sampled(folder, out, *cond, n=4):
    assert main(["sample", str(folder / "run"), "-n", str(n), "--out", str(out), "--cond", *cond]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_that_is_printed_next_draws_samples(folder, capsys, tmp_path, monkeypatch):
    arguments = ["--data", str(folder / "people.csv"), "--out", str(tmp_path / "run"), "--layers", "1", "--hidden", "8"]
    assert main(["train", "maf", *arguments, *OPTIONS, *QUICK]) == 0
    command = capsys.readouterr().out.splitlines()[-1].partition("    pushforward ")[2]
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) == 0
    assert len(pandas.read_csv("samples.csv")) == 100


def test_a_run_records_its_given_columns(folder, capsys):
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert config["data"]["given"] == ["age", "city"]
    assert [one["title"] for one in config["model"]["schema"]["given"]] == ["city", "age"]
    assert pf.load(folder / "run").conditioning.cond_features == 3
    assert main(["info", str(folder / "run")]) == 0
    shown = capsys.readouterr().out
    assert "of city, age" in shown
    assert "age: integer" in shown


@pytest.mark.parametrize(
    "cond", [["age=40,city=Paris, France"], ["age=40", "city=Paris, France"], ["city=Paris, France, age = 40"]], ids=["one", "two", "order"]
)
def test_samples_are_rows_of_the_table_with_what_is_given(folder, cond, tmp_path):
    rows = sampled(folder, tmp_path / "x.csv", *cond)
    assert list(rows[0]) == ["height", "city", "age", "kids"]
    assert {(row["city"], row["age"]) for row in rows} == {("Paris, France", "40")}
    assert all(row["kids"].isdecimal() for row in rows)


def test_a_table_gives_a_condition_for_each_row(folder, tmp_path):
    (tmp_path / "cond.csv").write_text('age,other,city\n30,x,Rome\n41.5,y,"Paris, France"\n')
    rows = sampled(folder, tmp_path / "x.csv", str(tmp_path / "cond.csv"), n=3)
    assert [(row["city"], float(row["age"])) for row in rows] == [("Rome", 30), ("Paris, France", 41.5), ("Rome", 30)]
    pandas.DataFrame({"age": [30, 31], "city": ["Rome", "Rome"]}).to_parquet(tmp_path / "cond.parquet")
    rows = sampled(folder, tmp_path / "y.csv", str(tmp_path / "cond.parquet"), n=2)
    assert [(row["city"], row["age"]) for row in rows] == [("Rome", "30"), ("Rome", "31")]


def test_a_split_gives_the_conditions_of_its_rows(folder, tmp_path):
    rows = sampled(folder, tmp_path / "x.csv", "test", n=6)
    test = pf.data.load(folder / "people.csv", "test", given=["age", "city"])
    known = test.schema.given_values(test.cond)
    assert [(row["city"], int(row["age"])) for row in rows] == list(zip(known["city"], known["age"].tolist(), strict=True))


def test_samples_as_a_frame_and_as_arrays_have_the_conditions(folder, tmp_path):
    arguments = ["sample", str(folder / "run"), "-n", "2", "--cond", "age=40,city=Rome", "--out"]
    assert main([*arguments, str(tmp_path / "x.parquet")]) == 0
    frame = pandas.read_parquet(tmp_path / "x.parquet")
    assert (frame["city"].tolist(), frame["age"].tolist()) == (["Rome"] * 2, [40] * 2)
    assert main([*arguments, str(tmp_path / "x.npz")]) == 0
    with numpy.load(tmp_path / "x.npz") as made:
        assert made["y"].tolist() == [[0, 1, 40]] * 2
        assert (made["given city"].tolist(), made["given age"].tolist()) == (["Rome"] * 2, [40] * 2)
    assert main([*arguments, str(tmp_path / "x.png")]) == 0


def test_a_table_with_another_delimiter_is_read_as_the_data_were(folder, tmp_path):
    text = pandas.read_csv(folder / "people.csv").to_csv(index=False, sep=";")
    (tmp_path / "people.csv").write_text(text)
    arguments = ["--data", str(tmp_path / "people.csv"), "--out", str(tmp_path / "run"), "--layers", "1", "--hidden", "8"]
    assert main(["train", "maf", *arguments, *OPTIONS, "delimiter", ";", *QUICK]) == 0
    (tmp_path / "cond.csv").write_text("age;city\n30;Rome\n")
    assert sampled(tmp_path, tmp_path / "x.csv", str(tmp_path / "cond.csv"), n=1)[0]["age"] == "30"


def test_numbers_outside_the_range_of_training_are_warned_of(folder, capsys, tmp_path):
    assert sampled(folder, tmp_path / "x.csv", "age=400,city=Rome")[0]["age"] == "400"
    assert "pushforward: warning: --cond: age is 400, but training had 2" in capsys.readouterr().err
    sampled(folder, tmp_path / "x.csv", "age=40.5,city=Rome")
    sampled(folder, tmp_path / "x.csv", "test")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ([], '--cond is missing: this model needs vectors (4, 3) as conditions; give "city=Paris, France,age='),
        (["age=40"], "--cond has no 'city', but samples are conditional on city, age; give all of them."),
        (["age=40,city=Rome,age=50"], "--cond has age twice; give one value of each column, or a .csv file with a row for each sample."),
        (["{}/twice.csv"], "twice.csv has two columns 'age', but each needs a name of its own; rename one."),
        (["age=40,town=Rome"], "--cond: 'town' is not a known given column"),
        (["age=40,city=Rom"], "--cond: 'Rom' is not a known word of city; did you mean 'Rome'?"),
        (["age=old,city=Rome"], "--cond: age is 'old', but it must be a finite number."),
        (["age=inf,city=Rome"], "--cond: age is 'inf', but it must be a finite number."),
        (["age=,city=Rome"], "--cond: age is missing, but samples are conditional on it; fill it in."),
        (["city=Rome", "40"], "--cond: '40' is not a known given column"),
        (["nowhere.csv"], '--cond is nowhere.csv, but there is no such file; give "city='),
        (["{}/bad.csv"], "bad.csv: age is 'x' in row 3, but it must be a finite number."),
        (["{}/short.csv"], "short.csv has no 'city', but samples are conditional on city, age"),
        (["{}/empty.csv"], "empty.csv has no rows below a header"),
        (["Rome"], '--cond is Rome, but it must be "city='),
    ],
)
def test_conditions_that_do_not_fit_are_one_sentence(folder, cond, message, capsys, tmp_path):
    (folder / "bad.csv").write_text("age,city\n30,Rome\nx,Rome\n")
    (folder / "short.csv").write_text("age,kids\n30,2\n")
    (folder / "twice.csv").write_text("age,city,age\n30,Rome,40\n")
    (folder / "empty.csv").write_text("age,city\n")
    given = ["--cond", *(one.format(folder) for one in cond)] if cond else []
    capsys.readouterr()
    assert main(["sample", str(folder / "run"), "-n", "4", "--out", str(tmp_path / "x.csv"), *given]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.slow
def test_a_run_is_evaluated_and_compared_given_the_columns(folder, tmp_path):
    """Integers have cells, over which likelihoods are averaged; also those of the baselines, given the columns or not."""
    assert main(["evaluate", str(folder / "run"), "--samples", "20", "--out", str(tmp_path / "report")]) == 0
    judged = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert judged["likelihood"][0]["conditional"] is not None
    others = {one["density"]: one for one in judged["likelihood"][1:]}
    assert others["gaussian, given the condition"]["conditional"] is not None
    assert {one["density"] for one in judged["comparisons"] if one["part"] == "conditional"} == {name for name in others if "given" in name}
    assert "height" in (tmp_path / "report" / "report.html").read_text()
    data = ["--data", str(folder / "people.csv"), *OPTIONS]
    compared = ["compare", str(folder / "run"), "maf", *data, "--train-steps", "3", "--samples", "20", "--out", str(tmp_path / "table")]
    assert main(compared) == 0


@pytest.mark.slow
def test_a_run_that_is_behind_a_gaussian_given_the_columns_prints_so(tmp_path, capsys):
    """The height follows from the age: the untrained flow is ahead of a Gaussian of heights that does not know it."""
    rng = numpy.random.default_rng(0)
    age = rng.uniform(20, 60, 400)
    columns = {"age": age, "height": 3 * age + rng.normal(size=400), "weight": rng.normal(size=400)}
    pandas.DataFrame(columns).to_csv(tmp_path / "people.csv", index=False)
    train = ["train", "maf", "--data", str(tmp_path / "people.csv"), "--data-options", "given", "[age]", "--hidden", "16"]
    assert main([*train, "--steps", "1", "--lr", "1e-6", "--out", str(tmp_path / "short")]) == 0
    assert "worse than a Gaussian given the condition by" in capsys.readouterr().out.splitlines()[0]


def test_a_saved_model_draws_under_conditions_by_name(folder):
    model = pf.load(folder / "run")
    cond = pf.data.conditions(model.schema, {"age": 40, "city": ["Rome", "Paris, France"]})
    table = model.schema.table(model.sample(2, cond=cond, generator=torch.Generator().manual_seed(0)), cond)
    assert (table["city"].tolist(), table["age"].tolist()) == (["Rome", "Paris, France"], [40, 40])
