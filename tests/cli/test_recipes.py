"""Recipes: each is a command line that its preset accepts, its numbers are those of its source, and options replace its own."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from pushforward import recipes, registry
from pushforward.cli import main
from pushforward.cli.options import from_data
from pushforward.cli.recipe import with_recipe
from pushforward.cli.run import load_data
from pushforward.cli.text_images import Texts
from pushforward.cli.train import Run, arguments_of, parsed_options
from pushforward.errors import UserError
from pushforward.training.defaults import defaults
from pushforward.training.settings import Settings

ROOT = Path(__file__).parents[2]
FACTS = {  # of data that may not be on this machine
    "fashion_mnist": {"shape": (1, 28, 28), "levels": 256, "classes": 10},
    "emoji": {"shape": (3, 32, 32), "levels": 256},
    "digits": {"shape": (1, 8, 8), "levels": 17, "classes": 10},
}


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_parsed_and_its_model_is_built(name):
    preset, *given = recipes.recipe(name).train
    sections = {"texts": Texts()} if preset == "sd3" else {}
    chosen = defaults(preset, load_data({"name": "digits"}, "train")) if "digits" in given else None
    settings, model = (Settings(), {}) if chosen is None else (Settings(**chosen.training), chosen.model)
    parsed = parsed_options(preset, given, Run(), settings, model, **sections)
    function, facts = registry.get(f"models.{preset}"), FACTS[parsed.run.data]
    decided = {argument: facts[of] for argument, of in from_data(function).items() if of in facts}
    if preset == "sd3":
        decided = {"shape": (8, 8, 8)}
    with torch.device("meta"):
        built = function(**arguments_of(parsed), **decided)
    parameters = sum(one.numel() for one in built.parameters())
    stated = {"fashion-rectified-flow": 724_801, "fashion-rectified-flow-dit": 1_852_688}  # docs/en/results.md
    assert parameters == stated.get(name, parameters) > 0


@pytest.mark.parametrize("name", [name for name in recipes.names() if recipes.recipe(name).source.endswith(".json")])
def test_the_numbers_of_a_recipe_are_those_of_its_source(name):
    one = recipes.recipe(name)
    found = json.loads((ROOT / one.source).read_text(encoding="utf-8"))
    found = found.get(one.train[0], found)
    own = found["likelihood"][0]
    bits = (found["bits"], found["bits_error"]) if "bits" in found else (own["conditional"], own["conditional_error"])
    shown = next(value for what, value in one.results.items() if "bits" in what)
    digits = len(shown.partition(" ")[0].partition(".")[2])
    assert shown == f"{bits[0]:.{digits}f} ± {bits[1]:.{digits}f}"
    share = next(value for what, value in one.results.items() if "classified" in what)
    assert float(share.rstrip("%")) == pytest.approx(100 * found["recognised"], abs=0.5)
    if "command" in found:
        assert set(found["command"].split()[2:]) == set(one.train)


@pytest.mark.parametrize("name", [name for name in recipes.names() if not recipes.recipe(name).source.endswith(".json")])
def test_the_numbers_of_a_recipe_are_on_its_page(name):
    one = recipes.recipe(name)
    page = (ROOT / one.source.partition("#")[0]).read_text(encoding="utf-8")
    for value in one.results.values():
        assert all(number in page for number in re.findall(r"-?\d[\d.]*", value)), value


def test_the_recipe_of_digits_is_the_demo(tmp_path, monkeypatch):
    """The demo is stopped where it would train; what its config.yaml states then is what the recipe's states."""

    class StopError(Exception):
        pass

    def stop(*arguments):
        raise StopError

    assert main(["train", "--recipe", "digits-rectified-flow", "--steps", "2", "--out", str(tmp_path / "run"), "-q"]) == 0
    monkeypatch.setattr("pushforward.training.trainer.Trainer.fit", stop)
    with pytest.raises(StopError):
        main(["demo", "--steps", "2", "--out", str(tmp_path / "demo"), "-q"])
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == yaml.safe_load((tmp_path / "demo" / "config.yaml").read_text())


def test_options_replace_those_of_the_recipe():
    def merged(*own):
        return with_recipe(["--recipe", "fashion-rectified-flow", *own])

    assert merged()[-2:] == ["--out", "runs/fashion-rectified-flow"]
    changed = merged("--steps", "10", "--batch_size=8", "--out", "x")
    assert changed[-5:] == ["--steps", "10", "--batch_size=8", "--out", "x"]
    assert (changed.count("--steps"), "6000" in changed, "--batch-size" in changed) == (1, False, False)
    other = merged("net:dit", "--net.patch", "4")
    assert (other.count("net:dit"), "net:unet" in other, "--net.multipliers" in other) == (1, False, False)
    assert merged("--net.multipliers", "1", "2").count("--net.multipliers") == 1
    assert merged("rectified_flow") == merged()
    assert with_recipe(["train"]) == ["train"]
    flow = with_recipe(["--recipe=fashion-tarflow", "--denoise"])
    assert ("--denoise" in flow, "--no-denoise" in flow) == (True, False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--recipe", "fashion-glo"], "did you mean 'fashion-glow'?"),
        (["--recipe"], "`pushforward list recipes` shows"),
        (["nsf", "--recipe", "fashion-glow"], "trains glow, not nsf"),
        (["--recipe", "fashion-glow", "--config", "x.yaml"], "leave one of them out"),
        (["--recipe", "fashion-glow", "--recipe=fashion-nsf"], "--recipe is given more than once, first as fashion-glow; leave the others"),
        (["--recipe", "emoji-sd3"], "pushforward train --recipe emoji-autoencoder"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        with_recipe(given)


def test_recipes_are_listed_with_command_and_results(capsys):
    assert main(["list", "recipes"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in recipes.names())
    assert main(["list", "recipes.fashion-glow"]) == 0
    text = capsys.readouterr().out
    assert "pushforward train glow --data fashion_mnist" in text
    assert "3.486 ± 0.009" in text
    assert main(["list", "recipes.fashion-glo"]) == 2
