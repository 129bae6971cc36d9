"""The examples with other packages do what they state: their loops train, and the server answers and refuses."""

import re
import runpy
from pathlib import Path

import pytest
import torch

import pushforward as pf

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "package"), [("lightning_loop", "lightning"), ("accelerate_loop", "accelerate")])
def test_a_loop_of_another_package_trains_the_model(name, package, tmp_path, monkeypatch, capsys):
    """150 steps from a loss of 2, that of predicting 0, on the standardised moons: below 1.6."""
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    main(["--steps", "150", "--out", "saved"])
    assert float(re.findall(r"loss (\d+\.\d+)", capsys.readouterr().out)[-1]) < 1.6
    model = pf.load("saved")
    assert model.sample(4, torch.tensor([0, 1, 0, 1]), sampler=pf.samplers.Euler(4)).isfinite().all()


@pytest.fixture(scope="module")
def served():
    """The model and a client of its server."""
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    torch.manual_seed(0)
    model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=3, sampler=pf.samplers.Euler(3)).eval()
    return model, TestClient(runpy.run_path(str(EXAMPLES / "serve.py"))["create"](model))


def test_the_server_describes_its_model(served):
    assert served[1].get("/health").json()["shape"] == [2]


def test_the_server_samples_what_the_model_samples(served):
    model, client = served
    asked = {"n": 3, "labels": [0, 1, 2], "seed": 7, "sampler": "heun", "steps": 2}
    expected = model.sample(3, torch.arange(3), sampler=pf.samplers.Heun(2), generator=torch.Generator().manual_seed(7))
    for _ in range(2):
        assert torch.equal(torch.tensor(client.post("/sample", json=asked).json()["x"]), expected)


def test_the_server_scores_what_the_model_scores(served):
    model, client = served
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    answer = client.post("/log_prob", json={"x": x.tolist(), "labels": [0, 1, 2, 0]}).json()["log_prob"]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(answer), model.log_prob(x, torch.tensor([0, 1, 2, 0])))


@pytest.mark.parametrize(
    ("path", "asked", "part"),
    [
        ("/sample", {"n": 257, "labels": [0]}, "less than or equal to 256"),
        ("/sample", {"n": 0}, "greater than or equal to 1"),
        ("/sample", {"n": 1, "labels": [3]}, "3"),
        ("/sample", {"n": 2, "labels": [0]}, "cond"),
        ("/sample", {"n": 1, "stepz": 3}, "Extra inputs are not permitted"),
        ("/sample", {"n": 1, "labels": [0], "sampler": "euler", "steps": 10**6}, "less than or equal to 100"),
        ("/sample", {"n": 1, "labels": [10**15]}, "less than"),
        ("/log_prob", {"x": []}, "at least 1 item"),
        ("/log_prob", {"x": [[1.0, 2.0, 3.0]], "labels": [0]}, "shape"),
        ("/log_prob", {"x": [[1.0], [1.0, 2.0]]}, "nested lists of shape (n, 2)"),
        ("/log_prob", {"x": [["a", "b"]]}, "nested lists of shape (n, 2)"),
        ("/log_prob", {"x": [[0.0, 0.0]] * 257}, "at most 256 items"),
    ],
)
def test_the_server_refuses_what_is_out_of_range(served, path, asked, part):
    answer = served[1].post(path, json=asked)
    assert answer.status_code == 422
    assert part in str(answer.json()["detail"])
