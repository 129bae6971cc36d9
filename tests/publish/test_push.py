"""A model on the Hub, of which a local server stands in: what is pushed is what is loaded, and a sentence for each refusal."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from hub_server import TOKEN, redirect, serving

import pushforward as pf
from pushforward.cli import main
from pushforward.errors import CheckpointError, ConfigError, NoCheckpointError, UserError
from pushforward.formats.hub import is_remote

NAME = "alice/points"


def small(**options):
    return pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,), classes=3, **options)


def same(a, b):
    return all(torch.equal(one, two) for one, two in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with a token and an empty cache, in an empty folder."""
    from huggingface_hub import constants

    with serving() as (hub, address):
        redirect(monkeypatch, address, tmp_path / "cache")
        assert address == constants.ENDPOINT
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        yield hub


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("some") / "run"
    data = pf.data.Dataset("points", torch.randn(64, 2), torch.arange(64) % 3)
    config = {"data": {"name": "/home/bob/customers/points.npy"}, "training": {"steps": 2}}
    pf.Trainer(small(), data, out=folder, steps=2, batch_size=32, block=32, checkpoint_every=1, config=config).fit()
    rows = [{"step": 2, "loss": 1.25, "seconds": 3.0}, {"step": 2, "validation_loss": 1.125}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = {
        "examples": 10, "split": "test", "distance": 0.5, "distance_std": 0.1, "distance_train": 0.25, "distance_train_std": 0.1,
        "likelihood": [{"pooled": 1.5, "pooled_error": 0.25, "conditional": None, "mixture": None}], "recognised": None,
        "closer_to_train": 0.5, "sampler": "Euler(3)",
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(judged))
    return folder


def metadata(hub, name=NAME):
    return yaml.safe_load(hub.repos[name]["README.md"].decode().split("---\n")[1])


def test_a_model_is_loaded_with_the_bits_that_were_pushed(hub):
    model = small(preprocess="standardise", sampler=pf.samplers.Euler(3)).eval()
    model.initialise(torch.randn(10, 2) * 3 + 1)
    address = pf.push_to_hub(model, NAME, private=True, license="mit", message="First")
    assert address.endswith(f"/{NAME}")
    assert hub.private[NAME]
    assert hub.commits == ["First"]
    assert set(hub.repos[NAME]) == {"README.md", "config.yaml", "manifest.json", "model.safetensors"}
    loaded = pf.load(NAME)
    assert same(model, loaded)
    assert loaded.sampler == pf.samplers.Euler(3)
    assert metadata(hub)["license"] == "mit"
    assert metadata(hub)["library_name"] == "pushforward"


def test_a_run_is_pushed_with_its_best_weights_and_its_results(hub, run):
    pf.push_to_hub(run, NAME)
    files, text = hub.repos[NAME], hub.repos[NAME]["README.md"].decode()
    assert set(files) == {"README.md", "config.yaml", "manifest.json", "model.safetensors", "evaluation.json"}
    assert same(pf.load(run), pf.load(NAME))
    for part in ("| loss | 1.2500 |", "| validation loss | 1.1250 at step 2 |", "bits per dimension, pooled | 1.500 ± 0.250", "3 classes"):
        assert part in text
    assert "pushforward train --config config.yaml" in text
    assert "customers" not in text + files["config.yaml"].decode()
    assert yaml.safe_load(files["config.yaml"])["data"]["name"] == "points.npy"


def test_the_code_of_the_card_runs(hub, run):
    pf.push_to_hub(run, NAME)
    code = hub.repos[NAME]["README.md"].decode().split("```python\n")[1].split("```")[0]
    space = {}
    exec(code, space)
    assert space["x"].shape == (16, 2)
    assert "log_prob" in code


def test_a_second_load_needs_no_server(hub, run, monkeypatch):
    pf.push_to_hub(run, NAME)
    first = pf.load(NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(pf.load(NAME), first)


def test_what_was_pushed_again_is_loaded_next(hub):
    one, two = small(), small()
    for model in (one, two):
        pf.push_to_hub(model, NAME)
        assert same(pf.load(NAME), model)


def test_only_tensors_and_text_is_downloaded(hub, run, tmp_path):
    pf.push_to_hub(run, NAME)
    hub.repos[NAME] |= {"training.pt": b"pickle", "pytorch_model.bin": b"pickle", "code.py": b"1 / 0"}
    pf.load(NAME)
    assert not [path for method, path in hub.requests if method == "GET" and path.endswith((".pt", ".bin", ".py"))]


def test_weights_of_what_cannot_be_built_are_not_downloaded(hub, run):
    pf.push_to_hub(run, NAME)
    hub.repos["alice/other"] = {
        "model_index.json": b'{"_class_name": "P", "transformer": ["a", "b"]}',
        "unet/diffusion_pytorch_model.safetensors": b"x",
    }
    hub.private["alice/other"] = False
    with pytest.raises(NoCheckpointError, match="only pipelines of a unet and a scheduler"):
        pf.load("alice/other")
    hub.repos["alice/empty"], hub.private["alice/empty"] = {"README.md": b"text"}, False
    with pytest.raises(NoCheckpointError, match=r"alice/empty on the Hub holds neither config.yaml nor model_index.json"):
        pf.load("alice/empty")
    assert not [path for _, path in hub.requests if path.startswith("/alice/other") and path.endswith(".safetensors")]


def test_damaged_weights_are_refused(hub, run):
    pf.push_to_hub(run, NAME)
    content = bytearray(hub.repos[NAME]["model.safetensors"])
    content[-1] ^= 1
    hub.repos[NAME]["model.safetensors"] = bytes(content)
    with pytest.raises(CheckpointError, match="modified or damaged"):
        pf.load(NAME)


def test_a_repository_that_cannot_be_read_is_one_sentence(hub, run, monkeypatch):
    with pytest.raises(
        NoCheckpointError, match=r"should be at http://127.*/alice/missing, but there is no such repository, or it is private"
    ):
        pf.load("alice/missing")
    pf.push_to_hub(run, NAME)
    hub.gated.add(NAME)
    with pytest.raises(UserError, match="which is gated; accept its licence there, then log in"):
        pf.load(NAME)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="cannot be reached; give the path of a run"):
        pf.load("alice/elsewhere")


def test_a_push_that_is_refused_is_one_sentence(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(UserError, match=r"does not let this token write .*/alice/points \(status 403\)"):
        pf.push_to_hub(run, NAME)
    assert pf.push_to_hub(run, NAME, token=TOKEN).endswith(NAME)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="cannot be written .*push again"):
        pf.push_to_hub(run, NAME, token=TOKEN)


def test_without_a_token_nothing_is_asked(hub, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="there is no token to write alice/points with; log in with `hf auth login`"):
        pf.push_to_hub(run, NAME)
    assert not hub.requests


@pytest.mark.parametrize("name", ["points", "a/b/c", "alice/", 3, "https://hub/alice/points"])
def test_a_name_of_another_form_is_refused(hub, run, name):
    with pytest.raises(UserError, match="but a repository of the Hub is OWNER/NAME"):
        pf.push_to_hub(run, name)
    assert not hub.requests


def test_what_cannot_be_loaded_again_is_not_pushed(hub, tmp_path):
    with pytest.raises(ConfigError, match="not built by a preset"):
        pf.push_to_hub(pf.families.PathModel(pf.nn.MLP.Config((8,)).build((2,)), (2,), path=pf.paths.Linear()), NAME)
    with pytest.raises(UserError, match="must be a GenerativeModel"):
        pf.push_to_hub(torch.nn.Linear(2, 2), NAME)
    with pytest.raises(NoCheckpointError, match="nowhere does not exist"):
        pf.push_to_hub(tmp_path / "nowhere", NAME)
    assert not hub.requests


def test_a_local_path_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_remote("alice/points")
    assert not is_remote("runs/points")
    assert not is_remote("./alice/points")
    assert not is_remote(tmp_path / "points")
    (tmp_path / "alice").mkdir()
    assert not is_remote("alice/points")
    with pytest.raises(NoCheckpointError, match="alice/points does not exist; give a run folder"):
        pf.load("alice/points")


def test_the_command_line_pushes_and_samples(hub, run, capsys):
    assert main(["push", str(run), NAME, "--license", "mit"]) == 0
    assert f"is loaded by pf.load('{NAME}')" in capsys.readouterr().out
    assert main(["sample", NAME, "-n", "6", "--out", "six.npy", "--steps", "2", "--sampler", "euler"]) == 0
    assert main(["sample", str(run), "-n", "6", "--out", "same.npy", "--steps", "2", "--sampler", "euler"]) == 0
    with open("six.npy", "rb") as one, open("same.npy", "rb") as two:
        assert one.read() == two.read()
    assert main(["sample", "alice/missing"]) == 2
    assert "no such repository" in capsys.readouterr().err


@pytest.mark.slow
def test_another_process_with_hf_endpoint_loads_it(run, tmp_path):
    with serving() as (_, address):
        env = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        for command in (["push", str(run), NAME], ["sample", NAME, "-n", "4", "--out", "four.npy"]):
            subprocess.run([sys.executable, "-m", "pushforward", *command], env=env, cwd=tmp_path, check=True, timeout=120)
        assert (tmp_path / "four.npy").stat().st_size > 4 * 2 * 4
