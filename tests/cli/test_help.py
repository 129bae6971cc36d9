"""Help: one screen for each command, all options with --help-all; nothing that a terminal would interpret goes into a pipe."""

import dataclasses
import re
import subprocess
import sys

import pytest

from pushforward import registry
from pushforward.cli import COMMANDS, main
from pushforward.cli.helping import SCREEN, Option, options_of
from pushforward.cli.options import preset_record
from pushforward.cli.train import Run
from pushforward.training.settings import Settings

PRESETS = [name.removeprefix("models.") for name in registry.names("models")]
ONE = [[name] for name in COMMANDS]
ONE += [pytest.param(["train", one], marks=() if one in ("nsf", "consistency", "sd3") else pytest.mark.slow) for one in PRESETS]


def shown(capsys, *command):
    """Return what a command prints with an option of help."""
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ONE, ids=str)
def test_help_is_one_screen_of_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = shown(capsys, *command, "--help").splitlines()
    assert len(lines) <= SCREEN == 40
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: pushforward {' '.join(command)}")
    assert re.fullmatch(rf"All \d+ options: pushforward {' '.join(command)}(?: PRESET)? --help-all", lines[-1])


@pytest.mark.parametrize("command", [["sample"], ["compare"], ["generate"], ["train", "rectified_flow"]])
def test_help_all_names_as_many_options_as_help_states(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    count = int(re.search(r"All (\d+) options", shown(capsys, *command, "--help"))[1])
    every = shown(capsys, *command, "--help-all")
    heads = re.findall(r"^[│ ] (-[A-Za-z-].*?)(?:  |$)", every, re.MULTILINE)
    names = {re.search(r"--?[a-z][\w.-]*(?=[ ,]|$)", head.split(", --no-")[0].split(", ")[-1])[0] for head in heads}
    assert len(names - {"--help"}) == count


@pytest.mark.parametrize("preset", ["nsf", "rectified_flow"])
def test_help_all_names_every_option_of_its_records(preset, capsys, monkeypatch):
    """Options of the records are collected here by dataclasses.fields, apart from the code that prints them."""
    monkeypatch.setenv("COLUMNS", "200")
    every = shown(capsys, "train", preset, "--help-all")
    record = preset_record(registry.get(f"models.{preset}"), {})
    typed = {field.name.replace("_", "-") for kind in (Run, Settings) for field in dataclasses.fields(kind)}
    typed |= {one.name for one in options_of(record) if one.is_option}
    assert "hidden" in typed or "net.channels" in typed
    for name in typed:
        assert re.search(rf"--(no-)?{re.escape(name)}(?![\w-])", every), name
    for kind in ("unet", "mlp", "dit") if preset == "rectified_flow" else ():
        assert f"options of net:{kind}:" in every


def test_help_of_a_chosen_component_is_that_of_its_options(capsys):
    chosen = shown(capsys, "train", "rectified_flow", "net:UNet", "--help")
    assert "--net.channels" in chosen
    assert "--batch-size" not in chosen


def test_a_default_and_the_values_of_an_option_are_shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, "train", "nsf", "--help")
    assert re.search(r"--steps INT +optimisation steps \(2000\)", text)
    assert Option("batch-size", "INT", "").head == "--batch-size INT"
    assert Option("n", "INT", "").head == "-n INT"
    assert Option("net", "", "", names=("mlp",)).head == "net:NAME"


def test_train_without_a_preset_names_all_of_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = " ".join(shown(capsys, "train", "--help").split())
    assert all(preset in text for preset in PRESETS)


def test_each_command_has_an_example_that_its_parser_knows():
    from pushforward.cli.help_texts import EXAMPLES

    assert set(EXAMPLES) == set(COMMANDS)
    for command, examples in EXAMPLES.items():
        assert all(one.startswith(f"pushforward {command}") for one in examples)


def test_help_does_not_import_torch():
    calls = "main(['--help']); main(['list', 'recipes', '--json']); sys.exit('torch' in sys.modules)"
    code = f"import sys; from pushforward.cli import main; {calls}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout + ended.stderr
