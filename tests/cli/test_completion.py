"""Scripts that complete the command line: a shell reads them, and they know the commands, presets and options that there are."""

import shutil
import subprocess

import pytest

from pushforward.cli import COMMANDS, main


def test_another_shell_is_refused_in_one_sentence(capsys):
    for given in (["tcsh"], []):
        assert main(["--completion", *given]) == 2
        assert "but it is one of bash, zsh, fish" in capsys.readouterr().err


@pytest.fixture(scope="module")
def script():
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["--completion", "bash"]) == 0
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["pushforward", ""], {*COMMANDS, "--help", "--version", "--completion"}),
        (["pushforward", "eval"], {"evaluate"}),
        (["pushforward", "sample", "--temp"], {"--temperature"}),
        (["pushforward", "train", "rectified"], {"rectified_flow"}),
        (["pushforward", "train", "realnvp", "--lay"], {"--layers"}),
        (["pushforward", "train", "ddpm", "--lay"], set()),
        (["pushforward", "train", "ddpm", "--wan"], {"--wandb"}),
    ],
)
def test_bash_completes(script, line, expected):
    words = " ".join(f"'{one}'" for one in line)
    code = f"{script}\nCOMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _pushforward; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    shown = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(shown.split()) == expected
