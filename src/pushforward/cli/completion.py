"""`pushforward --completion SHELL`: a script that completes commands, presets and options, which are read from the commands' own help."""

import contextlib
import importlib
import io
import os
import re
from collections.abc import Mapping, Sequence

from pushforward import registry
from pushforward.cli import COMMANDS, MODULES
from pushforward.errors import UserError

SHELLS = ("bash", "zsh", "fish")
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w.-]*")


def run(arguments: Sequence[str]) -> int:
    """Print the script of a shell and return the exit status."""
    shell = arguments[0] if len(arguments) == 1 else None
    if shell not in SHELLS:
        given = " ".join(arguments)
        raise UserError(f"--completion is {given!r}, but it is one of {', '.join(SHELLS)}; try `source <(pushforward --completion bash)`.")
    words = {"": [*COMMANDS, "--help", "--version", "--completion"]} | {name: _options(name) for name in COMMANDS}
    presets = [name.removeprefix("models.") for name in registry.names("models")]
    words["train"] = [*presets, *words["train"]]
    words |= {f"train {preset}": _options("train", preset) for preset in presets}
    print(_fish(words) if shell == "fish" else _bash(words, zsh=shell == "zsh"))
    return 0


def _options(*command: str) -> list[str]:
    """Return the options of a command, as its help lists them."""
    module = importlib.import_module(f"pushforward.cli.{MODULES.get(command[0], command[0])}")
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "400"  # one option a line
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
            module.run([*command[1:], "--help-all"])
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    starts = re.findall(r"^[│ ] (-[A-Za-z-].*?)(?:  |$)", shown.getvalue(), re.MULTILINE)
    return sorted({option for start in starts for option in OPTION.findall(start)} | {"--help", "--help-all"})


def _bash(words: Mapping[str, Sequence[str]], zsh: bool) -> str:
    cases = "\n".join(f'    "{command}") words="{" ".join(known)}" ;;' for command, known in words.items())
    start = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{start}_pushforward() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" command="" words=""
  [ "$COMP_CWORD" -gt 1 ] && command="${{COMP_WORDS[1]}}"
  [ "$command" = train ] && [ "$COMP_CWORD" -gt 2 ] && [[ "${{COMP_WORDS[2]}}" != -* ]] && command="train ${{COMP_WORDS[2]}}"
  case "$command" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _pushforward pushforward"""


def _fish(words: Mapping[str, Sequence[str]]) -> str:
    check = ["set -l given (commandline -opc)[2..-1]", 'test "$given[1..(count $argv)]" = "$argv"']
    lines = ["function __pushforward_is", *(f"    {line}" for line in check), "end"]
    for command, known in words.items():
        parts = command.split()
        condition = f"__pushforward_is {command}" if parts else "__fish_use_subcommand"
        lines.append(f"complete -c pushforward -n '{condition}' -a '{' '.join(known)}'")
    return "\n".join(lines)
