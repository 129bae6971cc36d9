"""Mistakes on the command line: one sentence each, with status 2; options stand in any order, and names are accepted as they are shown."""

import re

import pytest
import yaml
from examples import some_of

from pushforward import registry
from pushforward.cli import main
from pushforward.cli.listing import options_of
from pushforward.cli.mistakes import sentence
from pushforward.cli.options import FIELDS, kebab, named

TRAIN = "train ddpm --data moons"
SENTENCES = {
    "sample": "PATH is missing: run folder, checkpoint, folder written by pushforward.save, or pipeline folder of diffusers; "
    "or OWNER/NAME on the Hub; see `pushforward sample --help`.",
    "sample runs/x --stepz 3": "'--stepz' is not a known option; did you mean '--steps'?",
    "sample runs/x extra": "'extra' is not a known option; see `pushforward sample --help`.",
    "sample runs/x -n 1e3": "-n is '1e3', but it must be an integer; see `pushforward sample --help`.",
    "sample runs/x --steps abc": "--steps is 'abc', but it must be an integer; see `pushforward sample --help`.",
    "evaluate runs/x --split foo": "--split is 'foo', but it is one of 'test', 'validation'.",
    "reflow runs/x --lr": "--lr has too few values, but it needs 1; see `pushforward reflow --help`.",
    f"{TRAIN} --lr abc": "--lr is 'abc', but it must be a number; see `pushforward train ddpm --help`.",
    f"{TRAIN} --betas 1": "--betas has too few values, but it needs 2; see `pushforward train ddpm --help`.",
    f"{TRAIN} sampler:dpmsolverp": "'sampler:dpmsolverp' is not a known option; did you mean 'sampler:dpm-solver-pp'?",
    f"{TRAIN} --net.hidden 64 64": "--net.hidden is an option of net:mlp, which is not chosen; write net:mlp before it: "
    "`pushforward train ddpm ... net:mlp --net.hidden ...`.",
    f"{TRAIN} --sampler-options etta 1": "'etta' is not a known option of ddpm; known are clip, grid, noise, steps, variance.",
    "train nsf --data moons --sampler-options eta 1": "--sampler-options are given, but this model does not solve an ODE; leave them out.",
    f"{TRAIN} --sampler.eta 7 sampler:ddim": "eta is 7.0, but it is a share of the noise from 0 (the ODE) to 1 (DDPM).",
    "train --data moons --overwrite ddpm --lr abc": "--lr is 'abc', but it must be a number; see `pushforward train ddpm --help`.",
    "train ddpm --data moons --out /dev/null/x": "--out is /dev/null/x, but /dev/null is no folder; give another path.",
    f"{TRAIN} net:UNet --net.hidden 64": "--net.hidden is an option of net:mlp, but net:unet is chosen; "
    "see `pushforward train ddpm net:unet --help`, or choose net:mlp.",
    f"{TRAIN} --path.beta-min 1": "--path.beta-min is an option of path:sub-variance-preserving and path:variance-preserving, none of "
    "which is chosen; write path:sub-variance-preserving before it: "
    "`pushforward train ddpm ... path:sub-variance-preserving --path.beta-min ...`.",
    f"{TRAIN} net:mlp --net.hiden 64": "'--net.hiden' is not a known option; did you mean '--net.hidden'?",
    f"{TRAIN} net:mlp --net.foo 64": "'--net.foo' is not a known option; see `pushforward train ddpm net:mlp --help`.",
    f"{TRAIN} --net unet": "'--net' is not a known option: net is chosen by one word, such as net:unet, and its options "
    "follow as --net.NAME.",
    f"{TRAIN} --sampler DPMSolverPP": "'--sampler' is not a known option: sampler is chosen by one word, such as sampler:dpm-solver-pp, "
    "and its options follow as --sampler.NAME.",
    f"{TRAIN} net:mlp net:unet": "net:unet is given in addition to net:mlp, but there is one net; leave one of them out.",
    "sample runs/x --sampler-options eta": "--sampler-options takes pairs of NAME VALUE, but a name has no value; "
    "see `pushforward sample --help`.",
    "sample runs/x --sampler ddim --sampler-options etta 1": "'etta' is not a known option of ddim; did you mean 'eta'?",
    "finetune": "there is no model; give one, and images with captions: pushforward finetune MODEL --data FOLDER.",
    "generate m p --lora-weight 1 abc": "--lora-weight "
    "has 'abc', but each of its values must be a number; see `pushforward generate --help`.",
    "compare nsf --seeds 1.5": "--seeds has '1.5', but each of its values must be an integer; see `pushforward compare --help`.",
    "finetune m --betas 0.9 abc": "--betas has 'abc', but each of its values must be a number; see `pushforward finetune --help`.",
    "finetune m --rank abc": "--rank is 'abc', but it must be an integer; see `pushforward finetune --help`.",
    "finetune m --rnk 4": "'--rnk' is not a known option; did you mean '--rank'?",
    "finetune m --layout comfy": "--layout is 'comfy', but it is one of 'diffusers', 'kohya'.",
    "finetune m times:logit-normal --times.std 0": "std is 0.0, but the std of a logit-normal must be positive; try 1.",
    "finetune m --data moons": "m does not exist; give a .safetensors file, a diffusers folder, or a Hub id such as "
    "stabilityai/stable-diffusion-3.5-medium.",
    "demo --threads 0": "--threads is 0, but it must be at least 1.",
}


@pytest.mark.parametrize(("command", "columns"), some_of(SENTENCES, ["40", "100", "300"]))
def test_a_mistake_is_answered_in_one_sentence(command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(command.split()) == 2
    assert capsys.readouterr().err == f"pushforward: {SENTENCES[command]}\n"


@pytest.mark.parametrize("box", ["", "╭─ New ─╮\n│ Something else │\n╰───╯", "not a box"])
def test_a_box_of_another_form_is_a_sentence_too(box):
    assert sentence(box, "pushforward x").endswith("; see `pushforward x --help`.")


def test_options_stand_in_any_order(tmp_path):
    words = [
        "--data moons",
        "--data-options n 60",
        "net:mlp",
        "--net.hidden 8",
        "sampler:DDIM",
        "--sampler.steps 7",
        "--steps 1 --sampler-options grid karras grid.rho 5",
        "--batch-size 8",
    ]
    orders = [
        words,
        [*words[2:4], *words[4:], *words[:2]],
        [words[6], words[0], words[3], words[5], words[7], words[4], words[2], words[1]],
    ]
    configs = []
    for number, order in enumerate(orders):
        out = tmp_path / str(number)
        command = ["ddpm", *" ".join(order).split()] if number < 2 else [*" ".join(order).split(), "ddpm"]
        assert main(["train", *command, "--out", str(out)]) == 0
        configs.append(yaml.safe_load((out / "config.yaml").read_text()))
    assert configs[0]["model"]["sampler"]["steps"] == 7
    assert configs[0]["model"]["sampler"]["grid"] == {"name": "samplers.Karras", "rho": 5.0}
    assert configs[0]["model"]["net"]["hidden"] == [8]
    assert configs[0] == configs[1] == configs[2]


@pytest.mark.parametrize("group", sorted(set(FIELDS.values())))
def test_a_name_is_accepted_in_every_spelling(group):
    for public in registry.names(group):
        last = public.rpartition(".")[2]
        for name in (last, last.lower(), kebab(public), kebab(public).replace("-", "_"), kebab(public).upper()):
            assert named(group, name) is registry.get(public)


def test_each_option_of_a_network_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["train", "rectified_flow", "--help-all"])
    shown = capsys.readouterr().out
    for net in ("mlp", "unet", "dit", "mmdit"):
        section = shown.partition(f"options of net:{net}:\n")[2].partition("\n\n")[0]
        options = re.split(r"^  (?=--net\.)", section, flags=re.MULTILINE)[1:]
        assert len(options) > 2
        for option in options:
            words = option.split("(")[0].split()[1:]
            assert len([word for word in words if word.islower()]) > 2, option


def test_a_name_is_listed_with_its_options(capsys):
    for name in ("samplers.dpm-solver-pp", "samplers.DPMSolverPP"):
        assert main(["list", name]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "pushforward.samplers.DPMSolverPP Integrate the data prediction" in shown
        assert "lower_order_final True for" in shown
        assert "variant 2M" in shown
        assert "--sampler-options" in shown
    assert main(["list", "samplers."]) == 0  # as completion leaves a group
    with_dot = capsys.readouterr().out
    assert main(["list", "samplers"]) == 0
    listed = capsys.readouterr().out
    assert listed == with_dot
    assert "`pushforward list samplers.bosh3` explains" in listed
    assert main(["list", "samplers.dim"]) == 2
    assert "did you mean 'ddim'?" in capsys.readouterr().err


def test_every_option_of_a_sampler_is_explained():
    for entry in registry.entries("samplers"):
        for name, _, explanation in options_of(entry.thing):
            assert len(explanation.split()) > 1, (entry.name, name)


def test_every_public_name_can_be_listed(capsys):
    for name in registry.names():
        if "." in name:
            assert main(["list", name]) == 0, name
    capsys.readouterr()
