"""Commands that are no training: two processes write, once, what one process writes, and one failure ends both with its sentence."""

import json
import re

import numpy
import PIL.Image
import pytest
import torch
from launch import SCENARIOS, torchrun

from pushforward.cli import main

COMMANDS = SCENARIOS.with_name("commands.py")
SAMPLES = {
    "plain.npy": [],
    "stochastic.npz": ["--sampler", "ddpm", "--steps", "5", "--batch-size", "13"],
    "guided.npy": ["--guidance", "2", "--batch-size", "16"],
    "guided.png": ["--guidance", "2", "--batch-size", "16"],
    "one.csv": ["-n", "1"],  # fewer than processes
}
OWN = re.compile(r"seconds|milliseconds|command")  # times, and folders


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    out = tmp_path_factory.mktemp("flow") / "run"
    words = [
        "train",
        "rectified_flow",
        "--data",
        "moons",
        "--data-options",
        "n",
        "200",
        "--steps",
        "20",
        "--batch-size",
        "32",
        "--drop-cond",
    ]
    assert main([*words, "0.1", "--block", "16", "--out", str(out), "net:mlp", "--net.hidden", "16"]) == 0
    return out


def in_two(folder, *commands):
    """Run commands in two processes of one launch; return (statuses, outputs, errors) of both for each."""
    folder.mkdir(exist_ok=True)
    (folder / "commands.json").write_text(json.dumps([[str(word) for word in words] for words in commands]))
    run = torchrun(2, COMMANDS, folder)
    assert run.returncode == 0, run.stderr[-4000:]
    found = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]
    return [tuple(zip(*both, strict=True)) for both in zip(*found, strict=True)]


def equal_numbers(one, other):
    """Whether two files of JSON have the same content, numbers to rounding, times and commands apart."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal_numbers(one[key], other[key]) for key in one if not OWN.search(key))
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal_numbers, one, other))
    return one == pytest.approx(other, rel=1e-5, abs=1e-7, nan_ok=True) if isinstance(one, float) else one == other


def read(folder, name):
    return json.loads((folder / name).read_text())


@pytest.mark.slow
def test_samples_of_two_processes_are_those_of_one(flow, tmp_path):
    drawing = [["sample", flow, "-n", "50", *more] for more in SAMPLES.values()]
    for name, words in zip(SAMPLES, drawing, strict=True):
        assert main([*map(str, words), "--out", str(tmp_path / name)]) == 0
    two = tmp_path / "two"
    drawn = [[*words, "--out", two / name] for name, words in zip(SAMPLES, drawing, strict=True)]
    shelves = ["1", "with_weights"], ["0", "write_samples"], ["1", "check_clip"]
    breaking = [["break", *one, "sample", flow, "--out", two / "broken.npy"] for one in shelves]
    *found, refused, following, leading, checking = in_two(two, *drawn, ["sample", flow, "--label", "7"], *breaking)
    assert [statuses for statuses, _, _ in found] == [(0, 0)] * len(SAMPLES)
    assert all(printed[0].startswith(("50 samples", "1 samples")) and printed[1] == "" for _, printed, _ in found)
    for name in ("plain.npy", "guided.npy"):  # to rounding: on some CPUs a product's last bits depend on its number of rows
        numpy.testing.assert_allclose(numpy.load(two / name), numpy.load(tmp_path / name), rtol=1e-5, atol=1e-5)
    one, other = numpy.load(tmp_path / "stochastic.npz"), numpy.load(two / "stochastic.npz")
    numpy.testing.assert_allclose(one["x"], other["x"], rtol=1e-5, atol=1e-5)
    assert numpy.array_equal(one["y"], other["y"])
    picture, drawn = (numpy.asarray(PIL.Image.open(folder / "guided.png")).astype(float) for folder in (tmp_path, two))
    assert abs(picture - drawn).mean() < 0.1  # of 255: a marker may be drawn a pixel further
    assert (two / "one.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert refused[0] == (2, 2)
    assert all("--label is '7', but the classes are 0, 1" in said for said in refused[2])
    assert following[0] == leading[0] == checking[0] == (1, 1)
    assert not (two / "broken.npy").exists()
    assert all("the shelf broke." in said for one in (following, leading, checking) for said in one[2])
    assert "process 0 of 2 failed while sampling: the shelf broke." in leading[2][1]
    assert "process 1 of 2 failed while reading the run: the shelf broke." in checking[2][0]


@pytest.mark.slow
def test_evaluations_pairs_and_tables_of_two_processes_are_those_of_one(flow, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    models = ["nice --hidden 8", "flow_matching net:mlp --net.hidden 8", "meanflow net:mlp --net.hidden 8"]
    budget = [
        "--data",
        "moons",
        "--data-options",
        "n",
        "60",
        "--train-steps",
        "4",
        "--samples",
        "12",
        "--scored",
        "4",
        "--evaluations",
        "1",
    ]

    def commands(folder):
        return [
            ["evaluate", flow, "--samples", "40", "--compared", "30", "--scored", "30", "--evaluations", "1", "2", "--out", folder / "e"],
            ["reflow", flow, "--pairs", "2100", "--steps", "4", "--out", folder / "r"],
            ["distill", flow, "--pairs", "1100", "--steps", "4", "--out", folder / "d"],
            ["compare", *models, *budget, "--seeds", "0", "1", "--out", folder / "c"],
        ]  # fmt: skip

    for words in commands(one):
        assert main([*map(str, words)]) == 0
    found = in_two(two, *commands(two))
    assert [statuses for statuses, _, _ in found] == [(0, 0)] * 4
    assert all(printed[1] == "" for _, printed, _ in found)
    assert equal_numbers(read(one / "e", "evaluation.json"), read(two / "e", "evaluation.json"))
    assert {file.name for file in (one / "e").iterdir()} == {file.name for file in (two / "e").iterdir()}
    assert equal_numbers(read(one / "c", "table.json"), read(two / "c", "table.json"))
    assert {file.name for file in (one / "c" / "samples").iterdir()} == {file.name for file in (two / "c" / "samples").iterdir()}
    for run in ("r-1", "d"):  # the fingerprint of the pairs: the same bits
        states = [torch.load(folder / run / "checkpoints" / "step-000004" / "training.pt") for folder in (one, two)]
        assert states[0]["data"] == states[1]["data"]
