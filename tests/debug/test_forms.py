"""The same check as a command for scripts and as a fixture of pytest."""

import sys

import pytest

from pushforward.cli import main

pytest_plugins = ["pytester"]

SCRIPT = """
import sys
import torch

def step(x):
    mean = x.mean(0).expand_as(x)
    mean[0] += 1
    mean.sub_(float(sys.argv[1]))

print("arguments", sys.argv[1:], __name__)
{call}
"""


@pytest.fixture
def script(tmp_path):
    def write(call):
        path = tmp_path / "train.py"
        path.write_text(SCRIPT.format(call=call))
        return str(path)

    return write


def test_doctor_runs_a_script_and_prints_its_findings(script, capsys):
    path, argv = script("step(torch.ones(3, 2))"), sys.argv
    assert main(["doctor", "--aliasing", path, "2", "--debug"]) == 1
    printed = capsys.readouterr()
    assert "arguments ['2', '--debug'] __main__" in printed.out
    assert f"{path}: 2 findings" in printed.out
    assert "train.py:7 in step: mean[0] += 1" in printed.out
    assert "train.py:6 in step: x.mean(0).expand_as(x) (expand_as, from shape (2,))" in printed.out
    assert "train.py:8 in step: mean.sub_(float(sys.argv[1]))" in printed.out
    assert printed.err.startswith("Traceback")
    assert [line.split(", ")[1] for line in printed.err.splitlines() if "File" in line] == ["line 11", "line 8"]
    assert "single memory location" in printed.err
    assert sys.argv == argv


@pytest.mark.parametrize(("call", "status"), [("", 0), ("sys.exit(7)", 7), ("sys.exit('no')", 1), ("raise KeyError('x')", 1)])
def test_doctor_returns_the_status_of_a_script_without_findings(script, capsys, call, status):
    path = script(call)
    assert main(["doctor", "--aliasing", path]) == status
    printed = capsys.readouterr()
    assert f"{path}: no write to shared memory" in printed.out
    assert ("Traceback" in printed.err) == ("raise" in call)


def test_doctor_refuses_what_is_no_script(capsys, tmp_path):
    assert main(["doctor", "--aliasing", str(tmp_path / "none.py")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert main(["doctor", "--aliasing"]) == 2
    assert "--aliasing" in capsys.readouterr().err


TESTS = """
import pytest
import torch

def test_silent(detect_aliasing):
    torch.zeros(6).unfold(0, 3, 1).add_(1)

@pytest.mark.usefixtures("detect_aliasing")
def test_refused():
    torch.zeros(4).expand(3, 4).add_(1)

def test_clean(detect_aliasing):
    torch.zeros(3, 4).add_(1)

def test_unwatched():
    torch.zeros(6).unfold(0, 3, 1).add_(1)
"""


def test_a_test_with_the_fixture_fails_where_it_writes_shared_memory(pytester):
    pytester.makepyfile(TESTS)
    result = pytester.runpytest("-p", "pushforward.debug.fixture", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(
        ["*AliasingError: aten.add_ writes a tensor of shape (4, 3) and strides (1, 1), whose elements share memory"]
    )
    result.stdout.fnmatch_lines(["*expanded*torch.zeros(4).expand(3, 4) (expand, from shape (4,))"])
