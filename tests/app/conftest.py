"""Small models of every kind for the app, untrained: what is tested is what the app does with them."""

import contextlib
import socket
import subprocess
import sys
import time

import numpy
import PIL.Image
import pytest
import tiny_sd3
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
    with serving(runs, ["digits", "moons", "iris", "meanflow"]) as found:
        yield found


@pytest.fixture(scope="session")
def address_of_texts(tmp_path_factory):
    """The address of a server with two Stable Diffusion 3, a run of images and captions, and one of digits."""
    folder = tmp_path_factory.mktemp("texts")
    for name, variant in (("sd3", "medium"), ("sd3.5", "medium-3.5")):
        (folder / name).symlink_to(tiny_sd3.build(folder / f"{name}-files", variant).folder)
    pictures, rng = folder / "pictures", numpy.random.default_rng(0)
    pictures.mkdir()
    for k in range(24):
        PIL.Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=numpy.uint8)).save(pictures / f"{k:02d}.png")
        (pictures / f"{k:02d}.txt").write_text(("red square", "green circle", "blue star")[k % 3])
    own = "--data-options size 32 --text-encoders wordllama --text-tokens 6 --autoencoder-steps 2 --steps 2 --batch-size 4"
    net = "net:mm-dit --net.depth 1 --net.heads 1 --net.head-width 8"
    assert main(["train", "sd3", "--data", str(pictures), *own.split(), "--out", str(folder / "own"), *net.split()]) == 0
    digits = "train rectified_flow --data digits net:mlp --net.hidden 8 --steps 5 --batch-size 32 --out"
    assert main([*digits.split(), str(folder / "digits")]) == 0
    with serving(folder, ["sd3", "sd3.5", "own", "digits"]) as found:
        yield found


@contextlib.contextmanager
def serving(folder, names):
    """Yield the address of a server with the runs of a folder."""
    pytest.importorskip("gradio")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "pushforward", "app", *names, "--no-browser", "--port", str(port)]
    with (folder / "server.log").open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            end = time.monotonic() + 120
            while "http" not in (folder / "server.log").read_text():
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
