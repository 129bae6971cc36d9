"""`pushforward finetune`: from images with captions to a LoRA or a model that `generate` reads, and what is refused before that."""

import importlib.util
import json
import math
import shlex
import shutil
import types

import numpy
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

import pushforward as pf
from pushforward.cli import main
from pushforward.cli.tuned import Base
from pushforward.data.stamps import DEBIAN
from pushforward.formats.config import load_yaml
from pushforward.formats.sd3_shift import DynamicShift
from pushforward.training.grids import CaptionGrid

QUICK = ("--steps", 2, "--batch-size", 4, "--log-every", 1, "--validate-every", 0)
SETTINGS = (*QUICK, "--size", 32, "--tokens", 16)
needs_words = pytest.mark.skipif(importlib.util.find_spec("wordllama") is None, reason="wordllama is not installed")


@pytest.fixture(scope="module", autouse=True)
def small_grids():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaptionGrid, "COUNT", 1)
        yield


@pytest.fixture(scope="module")
def sd3(tiny):
    return tiny("medium").folder


def pictures(folder, n, caption, seed=0):
    folder.mkdir()
    for k in range(n):
        rng = numpy.random.default_rng((seed, k))
        PIL.Image.fromarray(rng.integers(0, 256, (40, 32, 3), dtype=numpy.uint8)).save(folder / f"{k:02d}.png")
        if caption:
            (folder / f"{k:02d}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of a subject (4, of which one has no caption in `bare`) and of its class (12)."""
    root = tmp_path_factory.mktemp("data")
    pictures(root / "subject", 4, "a red cat")
    pictures(root / "bare", 4, "")
    pictures(root / "class", 12, "a cat", seed=1)
    return root


def finetune(*words):
    return main(["finetune", *map(str, words)])


@pytest.fixture(scope="module")
def lora(sd3, folder, tmp_path_factory):
    """A run of a LoRA with prior preservation."""
    out = tmp_path_factory.mktemp("runs") / "lora"
    options = ("--prior", folder / "class", "--rank", 2, "--alpha", 4, "--precision", "bf16", "--activation-checkpointing")
    assert finetune(sd3, "--data", folder / "subject", *options, *SETTINGS, "--out", out) == 0
    return out


def test_a_lora_is_trained_and_used_by_the_command_that_is_printed(lora, sd3, tmp_path, capsys):
    assert {one.name for one in lora.iterdir()} >= {"config.yaml", "checkpoints", "latents", "samples", "lora.safetensors"}
    assert list((lora / "samples").glob("step-*.png"))
    tensors = load_file(lora / "lora.safetensors")
    assert {name.partition(".")[0] for name in tensors} == {"transformer"}
    assert all(len(one) == 2 for name, one in tensors.items() if name.endswith("lora_A.weight"))
    images = []
    for words in ((), ("--lora", str(lora / "lora.safetensors"), "--lora-weight", "3")):
        shared = ("--steps", "2", "--seed", "1", "--height", "32", "--width", "32", "--out", str(tmp_path / "a.png"))
        assert main(["generate", str(sd3), "a red cat", *shared, *words]) == 0
        images.append(numpy.asarray(PIL.Image.open(tmp_path / "a.png")))
    assert not numpy.array_equal(*images)
    metrics = [json.loads(line) for line in (lora / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_loss" in row for row in metrics)


def tuned_by_the_documented_command(sd3, folder, subject, others, capsys, more=()):
    """Fine-tune as the guide does, a file without text encoders, and return the file and the picture of the command that is printed."""
    files = ("--encoders", sd3.parent / "encoders", "--tokenizers", sd3)
    captions = ("--caption", "a photo of sks lion", "--prior", others, "--prior-caption", "a photo of an animal")
    given = (*files, "--data", subject, *captions, "--precision", "bf16", "--activation-checkpointing", *more)
    assert finetune(sd3.parent / "bare.safetensors", *given, *SETTINGS, "--out", folder / "out") == 0
    command = shlex.split(capsys.readouterr().out.partition("next: pushforward ")[2])
    assert main([*command[:-1], str(folder / "made.png"), "--steps", "1"]) == 0
    with PIL.Image.open(folder / "made.png") as image:
        assert image.size == (32, 32), "the size of training"
    return load_file(folder / "out" / "lora.safetensors")


def test_the_command_that_is_printed_has_the_files_and_the_size_of_training(sd3, folder, tmp_path, capsys):
    """Transparent pictures of any shape; it lacked the text encoders, and asked for 1024 pixels."""
    subject = tmp_path / "subject"
    subject.mkdir()
    for k, size in enumerate([(60, 34), (40, 90)]):
        PIL.Image.new("RGBA", size, (k, 90, 200, 128)).save(subject / f"{k}.png")
    tuned_by_the_documented_command(sd3, tmp_path, subject, folder / "class", capsys)


@pytest.mark.slow
@pytest.mark.skipif(not (DEBIAN / "animals").is_dir(), reason="tuxpaint-stamps-default is not installed")
def test_a_subject_is_learned_from_real_photographs(sd3, tmp_path, capsys):
    for name, place in (("subject", "animals/mammals/cats"), ("class", "animals/mammals")):
        (tmp_path / name).mkdir()
        for file in (DEBIAN / place).glob("*.png"):
            shutil.copy(file, tmp_path / name)
    assert len(list((tmp_path / "subject").iterdir())) == 4
    tensors = tuned_by_the_documented_command(sd3, tmp_path, tmp_path / "subject", tmp_path / "class", capsys, ("--lr", "1e-2"))
    assert any(one.any() for name, one in tensors.items() if "lora_B" in name)
    assert finetune(sd3, "--data", tmp_path / "subject", *SETTINGS, "--out", tmp_path / "none") == 2
    message = "subject has no captions; give images with a .txt file each or a metadata.csv of file_name and text, a set of Hugging Face"
    assert f"{message} with a column of texts, one --caption for all, or --data emoji." in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_continues_with_its_own_options_and_encodes_nothing_again(lora, capsys):
    before = {path: path.stat().st_mtime_ns for path in lora.rglob("latents/**/*.safetensors")}
    held = load_file(lora / "lora.safetensors")
    assert len(before) == 9  # three parts of latents, captions and no caption
    assert finetune("--resume", "--out", lora, "--steps", 3) == 0
    printed = capsys.readouterr()
    assert "trained 3 steps" in printed.out
    assert f"next: pushforward generate {load_yaml(lora / 'config.yaml')['finetune']['model']} 'a red cat' --lora" in printed.out
    assert before == {path: path.stat().st_mtime_ns for path in lora.rglob("latents/**/*.safetensors")}
    assert any(not torch.equal(one, held[name]) for name, one in load_file(lora / "lora.safetensors").items())
    assert finetune("--resume", "--out", lora, "--rank", 3) == 2
    assert "was trained with finetune.rank 2, not 3" in capsys.readouterr().err


def test_the_loss_is_of_latents_captions_and_times_that_are_asked_for(sd3, folder, tmp_path):
    """The cache holds what the model's own encoders return, and a LoRA's best weights are those that are written."""
    out = tmp_path / "out"
    options = ("--caption", "the cat of the photo", "times:uniform", "--dora", "--layout", "kohya", "--mirrored", "--lr", "1e-2")
    assert finetune(sd3, "--data", folder / "bare", *options, *SETTINGS, "--out", out) == 0
    model = pf.StableDiffusion3.from_pretrained(sd3)
    pairs = pf.sd3.LatentPairs(out / "latents", vae=model.vae, text=pf.sd3.PromptEncoders(model, 16, "empty"))
    assert len(pairs) == 8
    assert set(pairs.captions) == {"the cat of the photo"}
    torch.testing.assert_close(pairs.batch([0])[1].context, model.encode_prompt("the cat of the photo", 16).context, rtol=0, atol=1e-5)
    assert load_yaml(out / "config.yaml")["finetune"]["times"]["name"] == "times.Uniform"
    names = load_file(out / "lora.safetensors")
    assert all(name.startswith("lora_unet_") for name in names)
    assert any(name.endswith("dora_scale") for name in names)
    model.load_lora(out / "lora.safetensors")
    weights = load_file(next((out / "checkpoints").glob("step-*2")) / "model.safetensors")
    assert sum("lora_magnitude_vector" in name for name in weights) == 7


@pytest.mark.slow
def test_text_encoders_learn_from_tokens(sd3, folder, tmp_path):
    out = tmp_path / "out"
    assert finetune(sd3, "--data", folder / "subject", "--prior", folder / "class", "--text-encoders", *SETTINGS, "--out", out) == 0
    tensors = load_file(out / "lora.safetensors")
    assert {name.partition(".")[0] for name in tensors} == {"transformer", "text_encoder", "text_encoder_2"}
    assert any(one.any() for name, one in tensors.items() if name.startswith("text_encoder.") and "lora_B" in name)
    assert list((out / "samples").glob("step-*.png"))


def test_times_are_shifted_as_the_grid_of_the_training_size_is(sd3):
    """Also where the scheduler of the model states a shift by size."""
    model, tuning = pf.StableDiffusion3.from_pretrained(sd3), types.SimpleNamespace(times=None)
    for shift, wanted in ((3.0, 3.0), (DynamicShift(0.5, 1.5, 4, 64), math.exp(0.5 + 20 / 60))):
        model.shift = shift
        times = Base(model, None, None, tuning, None, torch.float32)._times((16, 8, 12))  # 24 tokens
        assert (times.times, times.factor) == (pf.times.LogitNormal(), pytest.approx(wanted))
    model.shift = 1.0
    assert Base(model, None, None, tuning, None, torch.float32)._times((16, 8, 12)) == pf.times.LogitNormal()


@pytest.mark.slow
def test_all_weights_become_a_model_of_its_own(sd3, folder, tmp_path):
    """In the dtype of the file, bfloat16, except the table of positions, which is float32 in it and stays what it was."""
    out, source = tmp_path / "out", tmp_path / "source"
    started = pf.StableDiffusion3.from_pretrained(sd3)
    started.transformer.bfloat16()
    started.save(source, "diffusers")
    assert finetune(source, "--data", folder / "class", "--full", *SETTINGS, "--lr", "1e-3", "--out", out) == 0
    before, after = (pf.StableDiffusion3.from_pretrained(one) for one in (source, out / "model"))
    assert torch.equal(after.transformer.positions, started.transformer.positions)
    assert {one.dtype for one in after.transformer.parameters()} == {torch.bfloat16}
    assert any(not torch.equal(a, b) for a, b in zip(before.transformer.parameters(), after.transformer.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.vae.parameters(), after.vae.parameters(), strict=True))
    after.sample("a cat", steps=1, size=(32, 32), tokens=16)
    with pytest.raises(pf.errors.UserError, match=f"holds a fine-tuned model; give {out / 'model'}"):
        pf.StableDiffusion3.from_pretrained(out)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["fp8", "int8"])
def test_a_model_is_written_in_8_bits(weights, sd3, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert finetune(sd3, "--data", folder / "class", "--full", *SETTINGS, "--lr", "1e-3", "--save-weights", weights, "--out", out) == 0
    file = out / f"model-{weights}.safetensors"
    stored = load_file(file)
    kinds = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
    assert {one.dtype for name, one in stored.items() if ".attn.qkv.weight" in name and "scale" not in name} == {kinds[weights]}
    before = pf.StableDiffusion3.from_pretrained(sd3).transformer
    after = pf.StableDiffusion3.from_pretrained(file).transformer
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert (one - other).abs().max() <= 0.07 * one.abs().max() + 5e-3  # half a step of 8 bits, and two steps of training
    shown = capsys.readouterr().out
    assert f"{file} is written; next: pushforward generate {file} " in shown
    command = shlex.split(shown.partition("next: pushforward ")[2].splitlines()[0])
    assert command[command.index("--tokenizers") + 1] == str(sd3)
    assert main([*command[:-1], str(tmp_path / "image.png"), "--steps", "1"]) == 0
    with pytest.raises(pf.errors.UserError, match=f"holds a fine-tuned model; give {file}"):
        pf.StableDiffusion3.from_pretrained(out)


@pytest.mark.slow
@needs_words
def test_a_run_is_fine_tuned_by_a_lora_and_as_a_whole(folder, tmp_path, capsys):
    base = tmp_path / "base"
    small = (*QUICK, "net:mm-dit", "--net.depth", 1, "--net.heads", 1, "--net.head-width", 8)
    data = ("--data", folder / "class", "--data-options", "size", 8, "--text-encoders", "wordllama", "--text-tokens", 4)
    assert main(list(map(str, ("train", "sd3", *data, "--autoencoder-steps", 1, "--out", base, *small)))) == 0
    for words in ((), ("--full",)):
        out = tmp_path / f"out{len(words)}"
        assert finetune(base, "--data", folder / "subject", *QUICK, *words, "--out", out) == 0
        model = (str(base), "--lora", str(out / "lora.safetensors")) if not words else (str(out),)
        shared = ("--steps", "1", "--seed", "1", "--out", str(tmp_path / "a.png"))
        assert main(["generate", model[0], "a cat", *shared, *model[1:]]) == 0
        assert PIL.Image.open(tmp_path / "a.png").size == (8, 8)
    capsys.readouterr()
    for words, message in (
        (("--text-encoders",), "is a run, whose text encoders are its own and are not trained; leave --text-encoders out"),
        (("--size", 16), "is a run on images of 8 pixels; leave --size out"),
        (("--full", "--save-weights", "fp8"), "becomes a run again, which is not written in 8 bits; leave --save-weights out"),
        (("--out", base, "--overwrite"), "which holds the model that is fine-tuned"),
    ):
        assert finetune(base, "--data", folder / "subject", "--out", tmp_path / "no", *words) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(pf.errors.UserError, match="holds a LoRA; give"):
        pf.StableDiffusion3.from_pretrained(tmp_path / "out0")


def test_what_cannot_be_is_refused_before_anything_is_loaded(sd3, folder, tmp_path, monkeypatch, capsys):
    loads = []
    monkeypatch.setattr(pf.StableDiffusion3, "from_pretrained", lambda *given, **_: loads.append(given))
    out, data = ("--out", tmp_path / "out"), ("--data", folder / "subject")
    for words, message in (
        ((), "there is no model; give one"),
        ((sd3,), "there is no data; give images with captions"),
        ((tmp_path / "no.safetensors", *data), "no.safetensors does not exist"),
        ((sd3, "--data", folder / "bare", *out), "bare has no captions"),
        ((sd3, "--data", "moons", *out), "moons has no captions"),
        ((sd3, *data, *out, "--prior", folder / "bare"), "bare has no captions"),
        ((sd3, *data, *out, "--prior", folder / "none"), "--prior is"),
        ((sd3, *data, *out, "--prior-weight", 2), "but no --prior"),
        ((sd3, *data, *out, "--prior", folder / "class", "--batch-size", 1), "a batch would not have both"),
        ((sd3, *data, *out, "--rank", 0), "--rank is 0"),
        ((sd3, *data, *out, "--alpha", 0), "--alpha is 0"),
        ((sd3, *data, *out, "--size", 100), "--size is 100, but it must be divisible by 16; try 96"),
        ((sd3, *data, *out, "--tokens", 513), "--tokens is 513"),
        ((sd3, *data, *out, "--drop-text", 1), "drop_text is 1.0"),
        ((sd3, *data, *out, "--full", "--dora"), "--full trains all weights of the transformer, but --dora is of a LoRA"),
        ((sd3, *data, *out, "--full", "--text-encoders"), "--text-encoders is of a LoRA"),
        ((sd3, *data, *out, "--save-weights", "int8"), "--save-weights is int8, but a LoRA is not written in 8 bits; add --full"),
        ((sd3, *data, *out, "--full", "--save-weights", "int4"), "--save-weights is 'int4', but it is one of 'full', 'fp8', 'int8'"),
        ((sd3, *data, *out, "--encoders", folder / "none"), "--encoders is"),
        ((sd3, *data, *out, "--tokenizers", folder / "none"), "--tokenizers is"),
        ((sd3, *data, *out, "--lr", -1), "lr is -1.0"),
        ((sd3, *data, "--out", folder), "exists already"),
    ):
        assert finetune(*words) in (1, 2)
        assert message in capsys.readouterr().err
    assert not loads
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_model_is_refused_before_anything_is_encoded(sd3, folder, tmp_path, capsys):
    data = ("--data", folder / "subject", "--out", tmp_path / "out")
    for words, message in (
        (("--size", 32, "--targets", "attention.q"), "no Linear of this network ends with it"),
        (("--size", 400), "the positions of"),
    ):
        assert finetune(sd3, *data, *words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_cache_serves_other_runs_and_one_of_other_captions_is_refused(sd3, folder, tmp_path, capsys):
    cache = ("--data", folder / "subject", "--cache", tmp_path / "cache", *SETTINGS)
    assert finetune(sd3, *cache, "--out", tmp_path / "a") == 0
    assert finetune(sd3, *cache, "--rank", 2, "--out", tmp_path / "a", "--overwrite") == 0
    assert {len(one) for name, one in load_file(tmp_path / "a" / "lora.safetensors").items() if "lora_A" in name} == {2}
    assert finetune(sd3, *cache, "--caption", "a dog", "--out", tmp_path / "c") == 2
    assert "holds latents cached with other data" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(sd3, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {one: one.read_bytes() for one in sd3.rglob("*") if one.is_file()}
    command = ["finetune", sd3, "--data", folder / "subject", *SETTINGS, "--rank", 2, "--dry-run", "--json"]
    assert main([str(word) for word in command]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["trained_parameters"] < found["parameters"]
    assert found["memory"]["gradients"] == 4 * found["trained_parameters"]
    assert found["checkpoint"]["bytes"] == 16 * found["trained_parameters"]  # the LoRA, averaged too, and two moments: nothing frozen
    assert (found["data"]["train"], found["run_is"]) == (4, "created")
    assert not list(tmp_path.iterdir())
    assert {one: one.read_bytes() for one in sd3.rglob("*") if one.is_file()} == before
