"""Small models of every kind for the app, untrained: what is tested is what the app does with them."""

import socket
import subprocess
import sys
import time

import PIL.Image
import pytest
import torch

import pushforward as pf
from pushforward.app.loaded import Loaded
from pushforward.cli import main
from pushforward.data.dataset import Dataset

COLUMNS = (pf.data.Column("height"), pf.data.Column("colour", "category", words=("blue", "red")))
SCHEMA = pf.data.Schema(COLUMNS, label=pf.data.Column("kind", "category", words=("a", "b")))


def loaded(name, model, tmp_path, tested=None):
    made = Loaded(name, tmp_path, model.eval())
    vars(made)["tested"] = tested
    return made


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The app's models by name."""
    tmp_path = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    mlp = pf.nn.MLP.Config((8,))
    digits = Dataset("digits", torch.randint(0, 17, (8, 1, 4, 4)).float(), torch.arange(8) % 3, levels=17)
    options = {"shape": (1, 4, 4), "classes": 3, "levels": 17}
    made = {
        "digits": loaded("digits", pf.models.rectified_flow(mlp, **options, drop_cond=0.1), tmp_path, digits),
        "ddpm": loaded("ddpm", pf.models.ddpm(mlp, **options), tmp_path, digits),
        "meanflow": loaded("meanflow", pf.models.meanflow(mlp, **options), tmp_path, digits),
        "moons": loaded("moons", pf.models.rectified_flow(mlp, shape=(2,)), tmp_path),
        "nsf": loaded("nsf", pf.models.nsf(2, hidden=(8,), layers=2), tmp_path),
        "maf": loaded("maf", pf.models.maf(3, hidden=(8,), layers=2), tmp_path),
        "ffjord": loaded("ffjord", pf.models.ffjord(mlp, shape=(2,)), tmp_path),
        "table": loaded("table", pf.models.rectified_flow(mlp, schema=SCHEMA), tmp_path),
    }
    return made


@pytest.fixture
def image(tmp_path):
    """The file of a picture that is no digit."""
    path = tmp_path / "picture.png"
    PIL.Image.radial_gradient("L").save(path)
    return path


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Runs of some seconds on digits, moons and iris: a folder with all."""
    folder = tmp_path_factory.mktemp("runs")
    quick = ["--batch-size", "32", "--checkpoint-every", "0", "--validate-every", "0"]
    for name, command in {
        "digits": "rectified_flow --data digits net:mlp --net.hidden 64 --steps 60 --drop-cond 0.1",
        "moons": "nsf --data moons --steps 40",
        "iris": "rectified_flow --data iris net:mlp --net.hidden 16 --steps 40",
        "meanflow": "meanflow --data digits net:mlp --net.hidden 32 --steps 20",
    }.items():
        assert main(["train", *command.split(), *quick, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="session")
def address(runs):
    """The address of a server with these runs, in a process of its own."""
    pytest.importorskip("gradio")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "pushforward", "app", "digits", "moons", "iris", "meanflow", "--no-browser", "--port", str(port)]
    with (runs / "server.log").open("w") as log, subprocess.Popen(command, cwd=runs, stdout=log, stderr=log) as process:
        try:
            end = time.monotonic() + 120
            while "http" not in (runs / "server.log").read_text():
                assert process.poll() is None, (runs / "server.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
