"""`pushforward generate`: pictures that can be made again from what they carry, and one sentence for each mistake."""

import json
import shutil

import PIL.Image
import PIL.ImageChops
import PIL.PngImagePlugin
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.sd3.generation import guidance_of

FEW = ["--tokens", "16"]  # of T5
SMALL = ["--steps", "2", "--height", "32", "--width", "48", *FEW]
pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def folder(tiny):
    return str(tiny("medium-3.5").folder)


@pytest.fixture(scope="module")
def fox(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "fox.png"
    assert main(["generate", folder, "a red fox 狐狸", *SMALL, "--seed", "5", "--out", str(out)]) == 0
    return out


def failed(capsys, *arguments):
    """The exit status and the sentence of a command that fails."""
    capsys.readouterr()
    try:
        status = main(["generate", *map(str, arguments)])
    except SystemExit as stop:
        status = stop.code
    return status, capsys.readouterr().err


def test_a_picture_carries_prompt_seed_and_settings(fox, folder):
    with PIL.Image.open(fox) as image:
        assert image.size == (48, 32)
        assert image.text["prompt"] == "a red fox 狐狸"
        assert image.text["seed"] == "5"
        settings = json.loads(image.text["pushforward"])
    assert (settings["model"], settings["steps"], settings["height"], settings["guidance"]) == (folder, 2, 32, 7.0)


def test_from_a_picture_the_same_bytes_are_made(fox, tmp_path):
    assert main(["generate", "--from", str(fox), "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == fox.read_bytes()


def test_from_a_picture_with_other_settings_another_is_made(fox, tmp_path):
    assert main(["generate", f"--from={fox}", "--out", str(tmp_path / "other.png"), "--negative", "blur", "--guidance", "3"]) == 0
    with PIL.Image.open(tmp_path / "other.png") as image:
        settings = json.loads(image.text["pushforward"])
    assert (settings["negative"], settings["guidance"], settings["prompt"]) == ("blur", 3.0, "a red fox 狐狸")
    assert (tmp_path / "other.png").read_bytes() != fox.read_bytes()


def test_both_layouts_make_the_same_picture(tiny, fox, tmp_path):
    checkpoint = tiny("medium-3.5")
    given = ["--tokenizers", str(checkpoint.folder), *SMALL, "--seed", "5"]
    for name, more in (("single", []), ("bare", ["--text-encoders", str(checkpoint.encoders)])):
        out = tmp_path / f"{name}.png"
        assert main(["generate", str(getattr(checkpoint, name)), "a red fox 狐狸", *given, *more, "--out", str(out)]) == 0
        assert PIL.Image.open(out).tobytes() == PIL.Image.open(fox).tobytes()


def test_each_of_many_images_can_be_made_again_alone(folder, tmp_path, capsys):
    assert main(["generate", folder, "a cat", *SMALL, "-n", "2", "--seed", "8", "--guidance", "1", "--out", str(tmp_path / "cat.png")]) == 0
    assert "2 images of 48x32 (seed 8) are in" in capsys.readouterr().out
    assert main(["generate", "--from", str(tmp_path / "cat-9.png"), "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "cat-9.png").read_bytes()


@pytest.mark.parametrize("prompt", ["", "None"])
def test_the_empty_prompt_is_a_prompt_and_none_a_word(folder, tmp_path, prompt):
    given = ["--steps", "1", "--height", "32", "--width", "48", *FEW, "--seed", "5", "--guidance", "1"]
    assert main(["generate", folder, prompt, *given, "--out", str(tmp_path / "made.png")]) == 0
    wanted = pf.StableDiffusion3.from_pretrained(folder).sample(prompt, steps=1, size=(32, 48), generator=5, tokens=16, guidance=1)[0]
    with PIL.Image.open(tmp_path / "made.png") as image:
        assert image.text["prompt"] == prompt
        assert image.tobytes() == wanted.tobytes()
    assert main(["generate", "--from", str(tmp_path / "made.png"), "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "made.png").read_bytes()


def test_a_file_of_prompts_makes_an_image_of_each_and_each_again(folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a cat\n\n  a red fox 狐狸 \n", encoding="utf-8")
    given = ["--prompts", str(tmp_path / "prompts.txt"), *SMALL, "--seed", "4", "-n", "2", "--batch-size", "3", "--guidance", "1"]
    assert main(["generate", folder, *given, "--out", str(tmp_path / "made.png")]) == 0
    assert "4 images of 48x32 (seed 4) are in" in capsys.readouterr().out
    images = [PIL.Image.open(tmp_path / f"made-{seed}.png") for seed in range(4, 8)]
    assert [one.text["prompt"] for one in images] == ["a cat", "a cat", "a red fox 狐狸", "a red fox 狐狸"]
    assert main(["generate", "--from", str(tmp_path / "made-6.png"), "--out", str(tmp_path / "again.png")]) == 0
    difference = PIL.ImageChops.difference(PIL.Image.open(tmp_path / "again.png"), images[2]).getextrema()
    assert max(most for _, most in difference) <= 1  # a batch may change last bits


def test_weights_in_8_bits_by_blocks_are_those_of_python(folder, tmp_path):
    given = ["--weights", "int8", "--offload-blocks", "--transformer", str(tmp_path / "transformer.safetensors"), *SMALL, "--seed", "5"]
    shutil.copy(f"{folder}/transformer/diffusion_pytorch_model.safetensors", tmp_path / "transformer.safetensors")
    assert main(["generate", folder, "a fox", *given, "--out", str(tmp_path / "made.png")]) == 0
    model = pf.StableDiffusion3.from_pretrained(folder, weights="int8")
    assert (
        PIL.Image.open(tmp_path / "made.png").tobytes()
        == model.sample("a fox", steps=2, size=(32, 48), generator=5, tokens=16)[0].tobytes()
    )
    assert main(["generate", "--from", str(tmp_path / "made.png"), "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "made.png").read_bytes()


def test_all_options_make_a_picture_that_can_be_made_again(fox, folder, tmp_path, monkeypatch):
    """Image and mask, another sampler, skipped layers, an interval, rescaling, tiles, offloading, without T5, another dtype."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(fox, "start.png")
    PIL.Image.new("L", (48, 32), 255).save("mask.png")
    given = [
        "--image",
        "start.png",
        "--mask",
        "mask.png",
        "--strength",
        "0.7",
        "--sampler",
        "heun",
        "--steps",
        "3",
        "--skip-layers",
        "0",
        "1",
    ]
    given += ["--interval", "0.1", "0.9", "--rescale", "0.5", "--tiling", "--offload", "--no-t5", "--dtype", "bfloat16", "--shift", "2"]
    given += ["--skip-steps", "0", "0.9", "--device", "cpu", "--negative", "blur", "--tokens", "80"]
    assert main(["generate", folder, "a fox", *given, "--seed", "1", "--out", "made.png"]) == 0
    assert main(["generate", "--from", "made.png", "--out", "again.png"]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "made.png").read_bytes()


def test_options_of_the_sampler_and_clipping_are_those_of_python_and_made_again(folder, fox, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--sampler", "dpm-solver-pp", "--sampler-options", "lower-order-final", "no", "grid", "times", "grid.times", "[1,0.8,0.3]"]
    size = ["--height", "32", "--width", "48", "--seed", "5", *FEW]
    assert main(["generate", folder, "a fox", *given, "--clip", "2", "dynamic", "0.9", *size, "--out", "made.png"]) == 0
    sampler = pf.samplers.DPMSolverPP(3, lower_order_final=False, grid=pf.samplers.Times((1.0, 0.8, 0.3)))
    guidance = pf.guidance.Clip(-2.0, 2.0, 0.9, pf.guidance.CFG(7.0))
    model = pf.StableDiffusion3.from_pretrained(folder)
    options = {"size": (32, 48), "sampler": sampler, "generator": 5, "tokens": 16}
    image = model.sample("a fox", guidance=guidance, **options)[0]
    assert PIL.Image.open("made.png").tobytes() == image.tobytes()
    assert image.tobytes() != model.sample("a fox", **options)[0].tobytes()
    assert main(["generate", "--from", "made.png", "--out", "again.png"]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "made.png").read_bytes()


def test_clipping_comes_after_skipped_layers(folder):
    net = pf.StableDiffusion3.from_pretrained(folder).transformer
    made = guidance_of(pf.guidance.Clip(-2.0, 2.0, guidance=3.0), pf.guidance.SkipLayers((0,), 2.0), [1.0, 0.5, 0.0], net)
    assert isinstance(made, pf.guidance.Clip)
    assert isinstance(made.guidance, pf.guidance.SkipLayers)
    assert made.guidance.guidance == pf.guidance.CFG(3.0)


def test_from_an_image_the_remaining_times_of_a_list_are_taken(folder, fox):
    """Strength 0.5 of four times leaves out the first two, as it does of four steps of any grid."""
    model = pf.StableDiffusion3.from_pretrained(folder)
    with PIL.Image.open(fox) as image:
        options = {"image": image.convert("RGB"), "strength": 0.5, "guidance": None, "generator": 5, "output": "latents", "tokens": 16}
        times = pf.samplers.Shifted(3, 1000)(1.0, 0.0, 4, pf.paths.Linear())[:-1]
        listed = model.sample("a fox", sampler=pf.samplers.Euler(4, grid=pf.samplers.Times(times)), **options)
        usual = model.sample("a fox", steps=4, **options)
    torch.testing.assert_close(listed, usual, rtol=0, atol=1e-5)


def test_a_preview_is_written_while_the_picture_is_made(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", folder, "a fox", *SMALL, "--guidance", "1", "--seed", "1", "--out", "made.png", "--preview", "seen.png"]) == 0
    assert PIL.Image.open("seen.png").size == (6, 4)


def test_memory_is_said_without_a_run(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", folder, "--memory", "--height", "64", "--width", "64"]) == 0
    said = capsys.readouterr().out
    assert "transformer" in said
    assert "offload=True" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "there is no model"),
        (["{folder}"], 2, "there is no prompt"),
        (["{folder}", "", "--prompts", "{model}"], 2, "but there is a prompt too (''); give one of them"),
        (["{folder}", "a", "--height", "100"], 2, "--height is 100, but it must be divisible by 16; try 96"),
        (["{folder}", "a", "--out", "a.jpg"], 2, "--out is a.jpg"),
        (["{folder}", "a", "-n", "0"], 2, "-n is 0"),
        (["{folder}", "a", "--seed", "-1"], 2, "--seed is -1"),
        (["{folder}", "a", "--batch-size", "0"], 2, "--batch-size is 0"),
        (["{folder}", "a", "--sampler", "eulr"], 2, "did you mean 'euler'"),
        (["{folder}", "a", "--sampler", "dopri5", "--steps", "3"], 2, "chooses its own steps"),
        (["{folder}", "a", "--strength", "0.5"], 2, "is given without an image"),
        (["{folder}", "a", "--image", "nowhere.png"], 2, "--image is nowhere.png, but there is no such file"),
        (["{folder}", "a", "--image", "{model}"], 2, "cannot be read as an image"),
        (["{folder}", "a", "--device", "abacus"], 2, "--device is 'abacus'"),
        (["{folder}", "a", "--skip-layers", "-1", *SMALL], 2, "layers is (-1,)"),
        (["{folder}", "a", "--skip-layers", "3", *SMALL], 2, "layers is (3,), but the network has the blocks 0 to 2"),
        (["nowhere.safetensors", "a"], 2, "nowhere.safetensors does not exist"),
        (["{model}", "a"], 2, "config.json"),
        (["{single}", "a", "--tokenizers", "nowhere/", *SMALL], 2, "--tokenizers is nowhere/, but there is no such folder"),
        (["{bare}", "a", *SMALL], 2, "there is no text encoder clip_l"),
        (["--from", "nowhere.png"], 2, "--from is nowhere.png, but there is no such file"),
        (["--from", "{model}"], 2, "cannot be read as an image"),
    ],
)
def test_mistakes_are_one_sentence(tiny, capsys, folder, arguments, status, words):
    checkpoint = tiny("medium-3.5")
    places = {"folder": folder, "model": f"{folder}/transformer/config.json", "single": checkpoint.single, "bare": checkpoint.bare}
    code, said = failed(capsys, *(one.format(**places) for one in arguments))
    assert code == status
    assert words in said
    assert "Traceback" not in said


UNLOADED = [
    (["--steps", "0"], "--steps is 0, but it must be at least 1"),
    (["--steps", "-3"], "--steps is -3"),
    (["--height", "0"], "--height is 0, but it must be at least 1; it is in pixels"),
    (["--width", "0"], "--width is 0"),
    (["--width", "-16"], "--width is -16"),
    (["--guidance", "nan"], "--guidance is nan, but it must be a finite number"),
    (["--guidance", "inf"], "--guidance is inf"),
    (["--rescale", "nan"], "rescale is nan"),
    (["--rescale", "2", "--guidance", "1"], "rescale is 2"),
    (["--interval", "0.5", "nan"], "interval is"),
    (["--shift", "0"], "--shift is 0"),
    (["--shift", "nan"], "--shift is nan"),
    (["--tokens", "0"], "--tokens is 0"),
    (["--tokens", "513"], "--tokens is 513"),
    (["--skip-layers", "1", "--skip-scale", "nan"], "scale is nan"),
    (["--skip-layers", "1", "--skip-steps", "0.2", "0.1"], "steps is (0.2, 0.1)"),
    (["--strength", "0.5"], "--strength is given without an image"),
    (["--height", "100"], "--height is 100, but it must be divisible by 16; try 96"),
    (["--width", "8"], "--width is 8, but it must be divisible by 16; try 16"),
    (["--sampler", "heun", "--sampler-options", "eta", "1"], "'eta' is not a known option of heun"),
    (["--sampler-options", "steps", "0"], "steps is 0"),
    (["--sampler-options", "grid.factor", "-1"], "factor is -1"),
    (["--sampler-options", "grid.factor", "2", "--shift", "3"], "--shift is 3.0, but --sampler-options give grid.factor"),
    (["--sampler-options", "grid", "times", "grid.times", "[0.9,0.5]"], "the first time is 0.9"),
    (["--sampler-options", "grid", "knots"], "needs a discrete path"),
    (["--clip", "3", "2"], "low is 3.0 and high 2.0"),
    (["--clip", "often"], "--clip is 'often'"),
    (["--out", "{fox}/made.png"], "is no folder"),
    (["--preview", "{fox}/seen.png"], "is no folder"),
    (["--prompts", "nowhere.txt"], "--prompts is nowhere.txt, but there is a prompt too"),
    (["--transformer", "nowhere.gguf"], "--transformer is nowhere.gguf, which is no file"),
    (["--text-encoders", "nowhere"], "--text-encoders is nowhere, which does not exist"),
    (["--tokenizers", "nowhere/"], "--tokenizers is nowhere/, but there is no such folder"),
    (["--mask", "{fox}"], "--mask is given without an image"),
    (["--image", "{fox}", "--strength", "0"], "--strength is 0"),
    (["--image", "{fox}", "--strength", "nan"], "--strength is nan"),
    (["--image", "{fox}", "--height", "48"], "--image is 32x48 (height x width), but --height or --width differ"),
    (["--image", "{fox}", "--mask", "{tall}"], "--mask is 48x32, but --image is 32x48"),
    (["--image", "{bomb}"], "cannot be read as an image"),
]


@pytest.mark.parametrize(("arguments", "words"), UNLOADED)
def test_numbers_out_of_range_are_refused_before_anything_is_loaded(fox, tmp_path, capsys, monkeypatch, arguments, words):
    def fail(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("pushforward.cli.generate.StableDiffusion3.from_pretrained", fail)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 32 * 48)
    PIL.Image.new("1", (32, 48)).save(tmp_path / "tall.png")
    PIL.Image.new("1", (320, 480)).save(tmp_path / "bomb.png")
    places = {"fox": fox, "tall": tmp_path / "tall.png", "bomb": tmp_path / "bomb.png"}
    code, said = failed(capsys, "model", "a", *(one.format(**places) for one in arguments))
    assert code == 2
    assert words in said
    assert "Traceback" not in said


def test_a_photograph_and_its_turned_copy_with_exif_make_the_same_picture(folder, fox, tmp_path):
    tags, made = PIL.Image.Exif(), []
    tags[0x0112] = 8
    with PIL.Image.open(fox) as image:
        image.save(tmp_path / "upright.png")
        image.transpose(PIL.Image.Transpose.ROTATE_270).save(tmp_path / "turned.png", exif=tags)
    for name in ("upright", "turned"):
        out = tmp_path / f"{name}_out.png"
        given = ["--image", str(tmp_path / f"{name}.png"), "--strength", "0.4", "--steps", "3", "--seed", "0", "--guidance", "1", *FEW]
        assert main(["generate", folder, "a fox", *given, "--out", str(out)]) == 0
        made.append(PIL.Image.open(out))
    assert made[0].size == (48, 32)
    assert made[0].tobytes() == made[1].tobytes()


def with_settings(fox, path, text):
    texts = PIL.PngImagePlugin.PngInfo()
    if text is not None:
        texts.add_itxt("pushforward", text)
    PIL.Image.open(fox).save(path, pnginfo=texts)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no pushforward settings"),
        ("{", "not a JSON mapping"),
        ("[1]", "not a JSON mapping"),
        ('{"model": "m", "prompt": "p", "speed": 3}', "'speed', which this version does not know"),
        ('{"model": "m", "prompt": "p", "steps": "many"}', "whose steps is 'many'"),
        ('{"model": "m", "prompt": "p", "image": 3}', "whose image is 3"),
    ],
)
def test_settings_that_are_none_are_refused(fox, capsys, tmp_path, text, words):
    code, said = failed(capsys, "--from", with_settings(fox, tmp_path / "edited.png", text))
    assert code == 2
    assert words in said


def test_a_picture_made_from_one_that_has_changed_is_not_made_again(fox, folder, tmp_path, capsys):
    shutil.copy(fox, tmp_path / "start.png")
    given = ["--image", str(tmp_path / "start.png"), "--steps", "2", "--guidance", "1", *FEW, "--out", str(tmp_path / "made.png")]
    assert main(["generate", folder, "a fox", *given]) == 0
    PIL.Image.new("RGB", (48, 32)).save(tmp_path / "start.png")
    code, said = failed(capsys, "--from", tmp_path / "made.png")
    assert code == 2
    assert "which has changed since" in said
