"""Commands that encode or generate data before they train, when torchrun starts their processes again: they continue what they began."""

import importlib.util
import shutil

import numpy
import PIL.Image
import pytest
import tiny_sd3
import torch
import yaml

import pushforward as pf
from pushforward.cli import main
from pushforward.cli.configuration import refuse_changes
from pushforward.errors import UserError
from pushforward.formats.config import dump_yaml, to_plain
from pushforward.formats.model import load
from pushforward.training import processes as processes_module
from pushforward.training.grids import CaptionGrid
from pushforward.training.processes import Processes
from pushforward.training.progress import read_metrics
from pushforward.training.trainer import Trainer

needs_words = pytest.mark.skipif(importlib.util.find_spec("wordllama") is None, reason="wordllama is not installed")
STEPS = ["--steps", "4", "--checkpoint-every", "2", "--validate-every", "4", "--log-every", "1"]


class KilledError(BaseException):
    """The end of a process."""


@pytest.fixture
def attempts(monkeypatch):
    """Return a function that runs a command as the processes of one launch that torchrun starts again and again.

    Each attempt but the last is killed after so many calls of a function, given as (owner, name, calls).
    """
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")

    def run(command, *kills, launch="one"):
        for number, kill in enumerate([*kills, None]):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(processes_module, "_JOINED", [Processes(launch=f"{launch} attempt-{number}")])
                if kill is None:
                    return main([*map(str, command)])
                patch.setattr(kill[0], kill[1], killing(getattr(kill[0], kill[1]), kill[2]))
                with pytest.raises(KilledError):
                    main([*map(str, command)])
        raise AssertionError

    return run


def killing(function, calls):
    done = []

    def call(*arguments, **options):
        result = function(*arguments, **options)
        done.append(1)
        if len(done) == calls:
            raise KilledError
        return result

    return call


def same(one, other):
    pairs = zip(load(one, "raw", "last").state_dict().values(), load(other, "raw", "last").state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def steps_of(run):
    return [row["step"] for row in read_metrics(run / "metrics.jsonl") if "loss" in row]


def launched(run):
    """The launch and the attempt that began a run."""
    return (run / ".launch").read_text().strip()


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    out = tmp_path_factory.mktemp("flow") / "run"
    data = ["--data", "moons", "--data-options", "n", "100", "--batch-size", "16", "--block", "8"]
    assert main(["train", "rectified_flow", *data, *STEPS, "--out", str(out), "net:mlp", "--net.hidden", "8"]) == 0
    return out


CASES = [
    ("distill", True),
    *(pytest.param(*one, marks=pytest.mark.slow) for one in [("reflow", True), ("reflow", False), ("distill", False)]),
]


@pytest.mark.parametrize(("command", "former"), CASES)
def test_training_on_pairs_continues_and_replaces_a_former_run_once(command, former, flow, attempts, tmp_path, capsys):
    from pushforward.cli import reflow

    more = ["--rounds", "2"] if command == "reflow" else []
    ends = ["-1", "-2"] if more else [""]
    words = [command, flow, "--pairs", "20", *more]
    assert attempts([*words, "--out", tmp_path / "straight"]) == 0
    if former:
        assert attempts([command, flow, "--pairs", "20", "--steps", "2", *more, "--out", tmp_path / "again"]) == 0
    in_second_round = [(Trainer, "save", 2)] if more else []  # the last save of the first round, and the first one of the second
    kills = [(reflow, "_straightness", 1), (Trainer, "save", 1), *in_second_round]
    assert attempts([*words, "--out", tmp_path / "again", *["--overwrite"] * former], *kills, launch="two") == 0
    for number, end in enumerate(ends, 1):
        assert same(tmp_path / f"again{end}", tmp_path / f"straight{end}")
        assert launched(tmp_path / f"again{end}") == f"two attempt-{number}"
        assert steps_of(tmp_path / f"again{end}") == [1, 2, 3, 4]
    assert attempts([*words, "--out", tmp_path / "again"], launch="three") == 2
    assert "exists already" in capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path):
    folder, rng = tmp_path / "pictures", numpy.random.default_rng(0)
    folder.mkdir()
    for k in range(12):
        PIL.Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=numpy.uint8)).save(folder / f"{k:02d}.png")
        (folder / f"{k:02d}.txt").write_text(("red square", "a grey dog")[k % 2])
    return folder


@pytest.mark.slow
@needs_words
def test_text_to_image_continues_its_autoencoder_and_its_encoding(pictures, attempts, tmp_path):
    from pushforward.cli import text_images

    words = ["train", "sd3", "--data", pictures, "--data-options", "size", "8", "--text-encoders", "wordllama", "--text-tokens", "6"]
    words += ["--autoencoder-steps", "4", "--batch-size", "4", *STEPS]
    net = ["net:mm-dit", "--net.depth", "1", "--net.heads", "1", "--net.head-width", "8"]
    assert attempts([*words, "--out", tmp_path / "straight", *net]) == 0
    shutil.copytree(tmp_path / "straight", tmp_path / "again")
    kills = [(Trainer, "save", 1), (text_images, "cache_latents", 1), (Trainer, "save", 1)]
    assert attempts([*words, "--out", tmp_path / "again", "--overwrite", *net], *kills, launch="two") == 0
    for run, number in (("", 2), ("autoencoder", 0)):
        assert same(tmp_path / "again" / run, tmp_path / "straight" / run)
        assert steps_of(tmp_path / "again" / run) == steps_of(tmp_path / "straight" / run)
        assert launched(tmp_path / "again" / run) == f"two attempt-{number}"


@pytest.mark.slow
def test_fine_tuning_continues_its_encoding(pictures, attempts, tmp_path, monkeypatch):
    from pushforward.cli import text_images

    monkeypatch.setattr(CaptionGrid, "COUNT", 1)
    model = tiny_sd3.build(tmp_path / "sd3").folder
    words = ["finetune", model, "--data", pictures, "--size", "32", "--tokens", "16", "--rank", "2", "--batch-size", "4", *STEPS]
    assert attempts([*words, "--out", tmp_path / "straight"]) == 0
    kills = [(text_images, "cache_latents", 1), (Trainer, "save", 1)]
    assert attempts([*words, "--out", tmp_path / "again"], *kills, launch="two") == 0
    assert steps_of(tmp_path / "again") == [1, 2, 3, 4]
    one, other = ((tmp_path / name / "lora.safetensors").read_bytes() for name in ("again", "straight"))
    assert one == other


def test_a_run_of_a_version_without_a_setting_resumes_where_it_has_its_default(tmp_path):
    """At any depth of the model's configuration, and no other change passes."""
    column = pf.data.Column("a", "continuous")
    now = {
        "preset": "nsf",
        "data": {"name": "t.csv"},
        "model": {"layers": 2, "dropout": 0.0, "schema": to_plain(pf.data.Schema((column,)))},
    }
    before = yaml.safe_load(dump_yaml(now))
    for section, setting in (
        (before["model"], "dropout"),
        (before["model"]["schema"], "given"),
        (before["model"]["schema"]["columns"][0], "of"),
    ):
        del section[setting]
    refuse_changes(before, now, tmp_path)
    for changed in ({"dropout": 0.1}, {"schema": {**now["model"]["schema"], "given": [to_plain(column)]}}, {"layers": 3}):
        with pytest.raises(UserError, match=rf"was trained with model\.{next(iter(changed))}"):
            refuse_changes(before, {**now, "model": {**now["model"], **changed}}, tmp_path)
