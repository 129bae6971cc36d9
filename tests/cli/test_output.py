"""What programs read: --json is one object on stdout, --quiet the result alone, and a pipe gets no control characters."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pushforward.cli import main, output

QUICK = ["--data-options", "n", "60", "--steps", "3", "--batch-size", "16", "--hidden", "8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a small run, which --quiet printed."""
    out = tmp_path_factory.mktemp("runs") / "moons"
    assert main(["train", "realnvp", "--data", "moons", *QUICK, "--out", str(out), "--quiet"]) == 0
    return out


def printed(capsys, *command):
    """Return the exit status of a command with --json, and the object that it prints."""
    capsys.readouterr()
    status = main([*map(str, command), "--json"])
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["exit_status"] == status
    assert found["command"] == command[0]
    return status, found


def test_train_prints_one_object(tmp_path, capsys):
    out = tmp_path / "moons"
    status, found = printed(capsys, "train", "realnvp", "--data", "moons", *QUICK, "--out", out)
    assert (status, found["run"], found["step"], found["stopped_by"]) == (0, str(out), 3, None)
    assert isinstance(found["best_validation_loss"], float)


def test_commands_on_a_run_print_one_object(run, tmp_path, capsys):
    assert printed(capsys, "info", run)[1]["preset"] == "realnvp"
    assert set(printed(capsys, "info", run)[1]["checkpoints"].values()) == {"intact"}
    found = printed(capsys, "sample", run, "-n", "5", "--out", tmp_path / "x.npy")[1]
    assert (found["out"], found["n"], found["shape"]) == (str(tmp_path / "x.npy"), 5, [2])
    found = printed(capsys, "compare", "--reported", run)[1]
    assert found["models"] == [str(run)]
    assert found["rows"]["preset"] == {str(run): "realnvp"}


@pytest.mark.slow
def test_an_evaluation_is_printed_as_it_is_written(run, tmp_path, capsys):
    options = [run, "--samples", "40", "--scored", "20", "--compared", "40", "--out", tmp_path]
    found = printed(capsys, "evaluate", *options)[1]
    assert found["evaluation"] == json.loads((tmp_path / "evaluation.json").read_text())
    assert main(["evaluate", *map(str, options), "-q"]) == 0
    assert tuple(capsys.readouterr()) == (f"{tmp_path / 'report.html'}\n", "")


def test_list_and_doctor_print_one_object(capsys):
    everything = printed(capsys, "list")[1]["names"]
    assert "nsf" in everything["models"]
    assert "fashion-glow" in everything["recipes"]
    assert set(printed(capsys, "list", "models")[1]["names"]) == set(everything["models"])
    assert {one["name"] for one in printed(capsys, "list", "samplers.ddim")[1]["options"]} >= {"steps", "eta"}
    assert printed(capsys, "list", "recipes.fashion-glow")[1]["results"]
    assert printed(capsys, "doctor")[1]["found"]["python"].startswith("3.")


@pytest.mark.parametrize("command", ["sample nowhere", "train nsf", "train nsf --data moons --lr x"])
def test_an_error_is_an_object_too(command, capsys):
    status = main([*command.split(), "--json"])
    text = capsys.readouterr()
    found = json.loads(text.out)
    assert (found["exit_status"], status) == (2, 2)
    assert text.err == f"pushforward: {found['error']}\n"


def test_quiet_prints_the_result_only(run, tmp_path, capsys):
    out = tmp_path / "again"
    assert main(["train", "realnvp", "--data", "moons", *QUICK, "--out", str(out), "--quiet"]) == 0
    assert tuple(capsys.readouterr()) == (f"{out}\n", "")
    assert main(["sample", str(run), "-n", "4", "--out", str(tmp_path / "x.csv"), "-q"]) == 0
    assert tuple(capsys.readouterr()) == (f"{tmp_path / 'x.csv'}\n", "")
    assert main(["list", "paths", "--quiet"]) == 0
    assert "Linear" in capsys.readouterr().out.split("\n")
    assert main(["info", str(run), "--quiet"]) == 0
    assert "preset" in capsys.readouterr().out
    assert main(["sample", "nowhere", "--quiet"]) == 2
    text = capsys.readouterr()
    assert (text.out, text.err.count("\n")) == ("", 1)


def test_the_two_modes_exclude_each_other_and_app_has_none(capsys):
    assert main(["list", "--quiet", "--json"]) == 2
    assert "exclude each other" in capsys.readouterr().err
    assert main(["app", "runs/x", "--json"]) == 2
    assert "leave --json out" in capsys.readouterr().err


def test_what_belongs_to_a_script_is_left_to_it(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:])")
    assert main(["doctor", "--aliasing", str(script), "--json", "--quiet"]) == 0
    assert "['--json', '--quiet']" in capsys.readouterr().out
    assert main(["doctor", "--json", "--aliasing", str(script)]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def piped(folder, *command):
    """Return what a command writes into pipes, where there is no terminal."""
    environment = {name: one for name, one in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE")}
    environment |= {"TERM": "xterm-256color"}
    options = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 120}
    ended = subprocess.run([sys.executable, "-m", "pushforward", *command], check=True, **options)
    for written in (ended.stdout, ended.stderr):
        assert not [one for one in written if one < 32 and one != ord("\n")]
    return ended.stdout.decode(), ended.stderr.decode()


def test_a_pipe_gets_plain_lines_of_80_columns(tmp_path):
    text, _ = piped(tmp_path, "list", "models")
    assert 60 < max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
def test_progress_in_a_pipe_is_plain_lines_apart_from_the_result(tmp_path):
    text, errors = piped(tmp_path, "train", "realnvp", "--data", "moons", *QUICK, "--log-every", "1", "--out", "run", "--json")
    assert json.loads(text)["run"] == "run"
    assert "step 3/3" in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("mode", ["--json", "--quiet"])
def test_a_full_disk_is_one_sentence(mode):
    command = [sys.executable, "-m", "pushforward", "list", "paths", mode]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "No space left on device" in done.stderr.splitlines()[-1]


def test_letters_that_stdout_lacks_are_replaced(tmp_path, monkeypatch):
    def written(status, *command):
        """What a command writes to a terminal of ASCII letters."""
        letters = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", letters)
        with pytest.raises(SystemExit, match="0") if "--help-all" in command else contextlib.nullcontext():
            assert main([*command]) == status
        letters.flush()
        return letters.buffer.getvalue()

    assert "é数" in json.loads(written(2, "info", f"{tmp_path}/é数", "--json"))["error"]
    assert b"\\udcff" in written(0, "new-package", "mine", "--out", f"{tmp_path}/\udcff")
    assert b"--steps" in written(0, "train", "rectified_flow", "--help-all")


def test_values_are_plain():
    @dataclasses.dataclass
    class Pair:
        left: float
        right: Path

    value = {"a": float("nan"), 2: (1, float("-inf")), "pair": Pair(1.5, Path("x/y"))}
    assert output.plain(value) == {"a": None, "2": [1, None], "pair": {"left": 1.5, "right": "x/y"}}


@pytest.fixture
def command_of_another_package(tmp_path, monkeypatch):
    """A package beside ours with the command `count`, which prints its arguments and returns their number."""
    code = "from pushforward.registry import export\n\n@export('cli.count')\ndef run(arguments):\n    print('given', *arguments)\n"
    (tmp_path / "theirs.py").write_text(code + "    return len(arguments)\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pushforward]\ncli.count = theirs:run\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    return lambda *words: subprocess.run([sys.executable, "-m", "pushforward", *words], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_options_before_the_command_of_another_package_are_ours_and_those_after_it_its_own(command_of_another_package):
    found = command_of_another_package("--json", "count", "--json", "a")
    assert json.loads(found.stdout) == {"command": "count", "exit_status": 2}
    assert (found.returncode, found.stderr) == (2, "given --json a\n")
    assert command_of_another_package("-q", "count").stdout == "given\n"
    assert command_of_another_package("count", "--quiet").stdout == "given --quiet\n"
    refused = command_of_another_package("--json", "--quiet", "count")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "exclude each other" in refused.stderr


def test_an_unknown_command_with_json_prints_one_object(capsys):
    assert main(["--json", "trian"]) == 2
    assert "did you mean 'train'" in json.loads(capsys.readouterr().out)["error"]
