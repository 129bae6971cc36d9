"""Exit codes of every command: 2 for what the user wrote, 1 for what happened, 128 + number for a signal, 0 for success."""

import errno
import importlib.util
import os
import shutil
import signal
import time

import numpy
import PIL.Image
import pytest
import torch

import pushforward as pf
from pushforward.cli import COMMANDS, MODULES, main
from pushforward.formats.run import checkpoints

QUICK = "--steps 2 --batch-size 16 --block 16 --checkpoint-every 0 --validate-every 0"
MOONS = f"--data moons --data-options n 100 {QUICK}"
WROTE = f"""
nonsense
train
train nonsense --data moons
train ddpm
train ddpm --data absent.csv
train ddpm --data absent/
train ddpm --data nonsense
train ddpm --data words.txt
train ddpm --data empty
train ddpm --data words.npy
train ddpm --data words.csv
train ddpm --data table.csv --data-options label nonsense
train ddpm {MOONS} --data-options n many
train ddpm {MOONS} --lr 0
train ddpm {MOONS} --lr nonsense
train ddpm {MOONS} --nonsense
train ddpm {MOONS} --device nonsense
train ddpm {MOONS} --net.hidden 8
train ddpm {MOONS} --out flow
train ddpm {MOONS} --out words.txt
train --config absent.yaml
train --config flow
train --config words.txt
train --resume --out absent
train --resume --out flow --steps 3 net:mlp --net.hidden 3
sample
sample absent
sample words.txt
sample empty
sample flow --nonsense
sample flow -n many
sample flow -n 0
sample flow --label nonsense
sample flow --sampler nonsense
sample flow --sampler-options nonsense 1
sample flow --clip nonsense
sample flow --guidance 2
sample flow --checkpoint step-9
sample flow --out x.nonsense
sample flow --out words.txt/x.csv
evaluate
evaluate absent
evaluate saved
evaluate flow --split nonsense
evaluate flow --samples 0
evaluate flow --checkpoint step-9
evaluate flow --sampler ddim --sampler-options eta 2
compare
compare flow absent
compare flow empty
info
info absent
info empty
info words.txt
reflow absent
reflow nsf
reflow flow --pairs 0
reflow flow --rounds 0
reflow flow --out words.txt/x
distill absent
distill nsf
distill flow --lr 0
distill flow --out nsf
generate
generate sd3
generate absent.safetensors fox
generate words.safetensors fox
generate empty fox
generate flow fox
generate sd3 fox --steps 0
generate sd3 fox --height 17
generate sd3 fox --out x.jpg
generate sd3 fox --image absent.png
generate sd3 fox --image words.txt
generate sd3 fox --skip-layers 99
generate --from words.txt
list nonsense
list samplers.nonsense
doctor nonsense
app
app absent
app flow --port 0
app flow flow
app flow --host nonsense.invalid
app flow --checkpoint nonsense
demo --steps 0
demo --out flow
"""
HAPPENED = f"""
train ddpm --data torn.npy
train ddpm --data torn.npz
train ddpm --data torn.parquet
train ddpm --data torn_images --data-options size 4
train ddpm {MOONS} --out diverged --lr 1e20 --clip 1e30 --warmup 0 --steps 50
train --resume --out damaged --steps 3
sample damaged
sample damaged --checkpoint last
sample nan --sampler euler --steps 2
evaluate damaged
compare damaged --explain
reflow damaged
distill flow --resume --out damaged
distill damaged
app damaged
generate torn.safetensors fox
generate sd3 fox --image torn.png
"""
WRITES = f"""
train ddpm {MOONS} --out full
sample flow --out full.npy -n 4
sample flow --out full.csv -n 4
evaluate flow --samples 8 --compared 8 --scored 8 --evaluations 1
reflow flow --pairs 10 --steps 1 --batch-size 8 --out full-reflow
distill flow --pairs 10 --steps 1 --batch-size 8 --out full-distilled
generate sd3 fox --steps 1 --height 32 --width 32 --guidance 1 --out full.png
"""
SUCCEEDS = """
--help
--version
train
sample flow -n 2 --out made.npy
info damaged
info saved
compare --reported flow damaged
list
list samplers
list samplers.ddim
doctor
"""


def lines(text):
    return [line for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """Runs, data and models that are as they must be, and others that are not, by names that tell them apart."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "empty").mkdir()
    for name in ("words.txt", "words.npy", "words.safetensors"):
        (folder / name).write_text("only words, many of them\n" * 50)
    (folder / "words.csv").write_text("size\n" + "1\n" * 20 + "large\n")
    (folder / "table.csv").write_text("size,kind\n" + "1.5,a\n2.5,b\n" * 20)
    numpy.save(folder / "torn.npy", numpy.zeros((50, 2)))
    numpy.savez(folder / "torn.npz", x=numpy.zeros((50, 2)))
    (folder / "torn.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    for name in ("torn.npy", "torn.npz"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-60])
    (folder / "torn_images").mkdir()
    image = pf.data.load("digits").x[0, 0].to(torch.uint8).numpy()
    for k in range(12):
        PIL.Image.fromarray(image).save(folder / "torn_images" / f"{k}.png")
    PIL.Image.fromarray(image).save(folder / "torn.png")
    for path in [folder / "torn.png", *(folder / "torn_images").iterdir()]:
        path.write_bytes(path.read_bytes()[:60])
    for preset, name in (("rectified_flow", "damaged"), ("rectified_flow", "flow"), ("nsf", "nsf")):
        net = [] if preset == "nsf" else ["net:mlp", "--net.hidden", "8"]
        assert main(["train", preset, *MOONS.split(), "--out", str(folder / name), *net]) == 0
    for name in checkpoints(folder / "damaged").names():
        weights = folder / "damaged" / "checkpoints" / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    model = pf.models.rectified_flow(pf.nn.MLP.Config((4,)), (2,))
    pf.save(model, folder / "saved")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    pf.save(model, folder / "nan")
    shutil.copytree(tiny("medium").folder, folder / "sd3")
    (folder / "torn.safetensors").write_bytes(tiny("medium").single.read_bytes()[:1000])
    return folder


def ended(command, capsys):
    """The exit code of a command and its last line on stderr, which is one sentence."""
    capsys.readouterr()
    try:
        code = main(command.split())
    except SystemExit as stop:
        code = stop.code or 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said


@pytest.mark.parametrize("command", lines(WROTE))
def test_what_the_user_wrote_is_2(folder, command, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert ended(command, capsys)[0] == 2


@pytest.mark.filterwarnings("ignore:.* cannot be read")  # images, each of which is named
@pytest.mark.parametrize("command", lines(HAPPENED))
def test_what_happened_is_1(folder, command, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    if "parquet" in command:
        pytest.importorskip("pyarrow")
    if command.startswith("app ") and importlib.util.find_spec("gradio") is None:  # not imported, which takes seconds
        pytest.skip("gradio is not installed")
    assert ended(command, capsys)[0] == 1


@pytest.mark.parametrize("command", lines(WRITES))
def test_a_full_disk_is_1(folder, command, monkeypatch, capsys):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.chdir(folder)
    monkeypatch.setattr("pushforward.formats.files._sync", full)
    code, said = ended(command, capsys)
    assert code == 1
    assert "No space left" in said


FIRST = {"train": "_train", "finetune": "asked"}  # what a command calls that does not parse itself


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_128_and_its_number(folder, command, number, monkeypatch, capsys):
    def signalled(*arguments, **options):
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.chdir(folder)
    module = MODULES.get(command, command)
    monkeypatch.setattr(f"pushforward.cli.{module}.{FIRST.get(command, 'parse')}", signalled)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background with SIGINT ignored
    assert ended(f"{command} ddpm" if command == "train" else command, capsys)[0] == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["train ddpm", "reflow flow --pairs 10", "distill flow --pairs 10"])
def test_a_signal_during_training_is_128_and_its_number(folder, command, number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("pushforward.training.trainer.Trainer._log", lambda *_: os.kill(os.getpid(), number))
    more = MOONS if command.startswith("train") else "--steps 2 --batch-size 8"
    code, said = ended(f"{command} {more} --out {tmp_path}/{number.name}", capsys)
    assert code == 128 + number
    assert "is saved; continue with --resume" in said


@pytest.mark.parametrize("command", lines(SUCCEEDS))
def test_success_is_0(folder, command, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert ended(f"{command} --help" if command == "train" else command, capsys)[0] == 0


def test_a_missing_requirement_is_1(monkeypatch, capsys):
    monkeypatch.setattr("pushforward.cli.doctor._version", lambda name: None)
    assert ended("doctor", capsys)[0] == 1
