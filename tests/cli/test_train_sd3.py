"""`pushforward train sd3`: from images with captions to `pushforward generate`, and what is refused on the way."""

import importlib.util
import io
import json
import re
import shlex
import tarfile

import numpy
import PIL.Image
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.formats.config import load_yaml

pytestmark = pytest.mark.skipif(importlib.util.find_spec("wordllama") is None, reason="wordllama is not installed")
SMALL = (
    "--steps",
    "2",
    "--batch-size",
    "4",
    "--log-every",
    "1",
    "net:mm-dit",
    "--net.depth",
    "1",
    "--net.heads",
    "1",
    "--net.head-width",
    "8",
)
WORDS = ("red square", "green circle", "blue star", "a grey dog", "two cats", "the sun")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images of 8x8 pixels with captions, except one without and one that is damaged."""
    folder, rng = tmp_path_factory.mktemp("data") / "pictures", numpy.random.default_rng(0)
    folder.mkdir()
    for k in range(30):
        PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)).save(folder / f"{k:02d}.png")
        (folder / f"{k:02d}.txt").write_text(WORDS[k % len(WORDS)])
    (folder / "07.txt").unlink()
    return folder


def command(*words: object) -> list[str]:
    return ["train", "sd3", *map(str, words)]


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "sd3"
    options = ("--data", pictures, "--data-options", "size", 8, "--text-encoders", "wordllama", "--text-tokens", 6)
    assert main(command(*options, "--autoencoder-steps", 2, "--null-text", "empty", "--out", out, *SMALL)) == 0
    return out


def test_a_run_holds_all_that_makes_images_of_prompts(run, tmp_path, capsys):
    assert {one.name for one in run.iterdir()} >= {"config.yaml", "checkpoints", "vae", "autoencoder", "latents", "samples"}
    assert load_yaml(run / "config.yaml")["texts"]["text_encoders"] == ["wordllama"]
    assert any((run / "samples").glob("step-*.png"))
    assert (
        main(["generate", str(run), "red square", "--seed", "3", "--guidance", "2", "--steps", "2", "--out", str(tmp_path / "a.png")]) == 0
    )
    assert "an image of 8x8" in capsys.readouterr().out
    sd3 = pf.StableDiffusion3.from_pretrained(run)
    assert sd3.size == pf.StableDiffusion3.from_pretrained(run / "checkpoints" / "last").size == (8, 8)
    image = sd3.sample(["red square"], guidance=2.0, steps=2, generator=3)[0]
    assert numpy.array_equal(numpy.asarray(image), numpy.asarray(PIL.Image.open(tmp_path / "a.png")))


def test_a_caption_in_the_next_command_is_not_run_by_a_shell(tmp_path, capsys):
    """And one that looks like a formula is drawn into the samples' picture; the images are read from a tar shard."""
    caption, rng = "a $\\frac{$ and $(touch x) `y` \"z\" 'q'", numpy.random.default_rng(0)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for k in range(20):
            picture = io.BytesIO()
            PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)).save(picture, "png")
            for name, content in ((f"{k:02d}.png", picture.getvalue()), (f"{k:02d}.txt", caption.encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    options = ("--data", f"wds:{tmp_path}/a.tar", "--data-options", "size", 8, "--text-encoders", "wordllama", "--text-tokens", 6)
    assert main(command(*options, "--autoencoder-steps", 2, "--out", tmp_path / "a run", *SMALL)) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:5] == ["next:", "pushforward", "generate", str(tmp_path / "a run"), caption]


def test_no_text_in_a_prompt_is_what_no_text_was_in_training(run):
    sd3, model = pf.StableDiffusion3.from_pretrained(run), pf.load(run)
    assert torch.equal(sd3.encode_prompt("").context, model.empty.context)
    assert model.null_text == "empty"
    assert not torch.equal(sd3.encode_prompt("red square").context, model.empty.context)


def test_a_run_resumes_without_encoding_again(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("latents/*/*.safetensors")}
    assert before
    assert main(["train", "--resume", "--out", str(run), "--steps", "3"]) == 0
    out = capsys.readouterr().out
    assert "trained 3 steps" in out
    assert "encoding" not in out
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("latents/*/*.safetensors")}


@pytest.mark.parametrize("name", ["sample", "evaluate", "reflow"])
def test_commands_on_the_datas_own_units_refer_to_generate(run, name, capsys):
    assert main([name, str(run)]) == 2
    assert f"pushforward generate {run} PROMPT" in capsys.readouterr().err


@pytest.mark.slow
def test_a_given_autoencoder_and_cache_are_used_and_others_refused(run, pictures, tmp_path, capsys):
    cache = tmp_path / "cache"
    options = ("--data", pictures, "--data-options", "size", 8, "--text-encoders", "wordllama", "--text-tokens", 6, "--cache", cache)
    vae = pf.nn.AutoencoderKL(3, 2, (8, 16), blocks=1, groups=4).eval()
    pf.formats.write_sd3(tmp_path / "other", pf.formats.SD3Files(vae=vae), "diffusers")
    for out, given, status in ((tmp_path / "a", run / "autoencoder", 0), (tmp_path / "b", tmp_path / "other", 2)):
        assert main(command(*options, "--autoencoder", given, "--out", out, *SMALL)) == status
        assert not (out / "autoencoder").exists()
    err = capsys.readouterr().err
    assert re.search("holds latents .*another autoencoder", err)
    assert "1 of 30 images are left out: 1 without a caption (07.png)" in err
    assert json.loads((tmp_path / "a" / "vae" / "config.json").read_text())["latent_channels"] == 8


def test_what_cannot_be_is_refused_before_anything_is_trained(pictures, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in pictures.glob("*.png"):
        (bare / path.name).write_bytes(path.read_bytes())
    sized = ("--data-options", "size", 8)
    for words, message in (
        (("--data", bare, *sized), "bare has no captions; give images with a .txt file each"),
        (("--data", "moons"), "moons has no captions"),
        (("--data", pictures, *sized, "--text-encoders", "bert"), "'bert' is not a known text encoder"),
        (("--data", pictures, *sized, "--text-encoders", "wordllama", "--autoencoder", tmp_path / "no"), "there is no file or folder"),
        (("--data", pictures, *sized, "--text-encoders", "wordllama", "net:unet"), "texts are read by MMDiT"),
    ):
        assert main(command(*words, "--out", tmp_path / "out")) in (1, 2)
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_overwriting_replaces_a_run_and_nothing_of_the_users(run, pictures, tmp_path, capsys):
    out = tmp_path / "again"
    options = ("--data", pictures, "--data-options", "size", 8, "--text-encoders", "wordllama", "--text-tokens", 6, "--out", out)
    assert main(command(*options, "--autoencoder", run / "vae", *SMALL)) == 0
    assert main(command(*options, "--autoencoder", tmp_path / "no", *SMALL)) == 2, "nothing is overwritten without the option"
    (out / "latents" / "train" / "mine.txt").write_text("mine")
    before = (out / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert main(command(*options, "--autoencoder-steps", 1, "--overwrite", *SMALL)) == 0
    assert before != (out / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert (out / "latents" / "train" / "mine.txt").read_text() == "mine"
    (out / "vae" / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(command(*options, "--overwrite", *SMALL)) == 2
    assert "vae holds notes.txt, which would be lost" in capsys.readouterr().err
    assert (out / "checkpoints" / "last").is_file(), "refused before anything is removed"


def test_a_dry_run_writes_nothing(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--data", pictures, "--data-options", "size", 8, "--text-encoders", "wordllama", "--text-tokens", 6, "--dry-run", "--json")
    assert main(command(*options, *SMALL)) == 0
    found = json.loads(capsys.readouterr().out)
    used = found["data"]["train"] + found["data"]["validation"]
    assert (used, found["time"]["steps"]) == (29 - 2, 2)  # a tenth of the 29 images with captions is for tests
    assert "training an autoencoder for 4,000 steps" in found["time"]["before"]
    assert found["memory"]["activations"] > 0
    assert not list(tmp_path.iterdir())
