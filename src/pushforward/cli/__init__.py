"""The command line: `pushforward COMMAND`. Usage errors exit with status 2, runtime errors with 1, each with a one-sentence message.

A command's module is imported when the command runs, so that `pushforward --help` stays fast.
"""

import contextlib
import functools
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence

from pushforward.cli import output
from pushforward.cli.output import FLAGS

COMMANDS = {
    "demo": "train a rectified flow on handwritten digits for a minute, evaluate it, and write runs/demo/report.html",
    "train": "train a preset on data: pushforward train rectified_flow --data moons --steps 2000",
    "sample": "draw samples from a run: pushforward sample runs/demo -n 100 --label 3 --out threes.png",
    "edit": "edit examples of one class into another: pushforward edit runs/demo --source 3 --target 8",
    "evaluate": "evaluate a run on held-out data, and write its report.html",
    "compare": "train or load several models and measure them in one table: pushforward compare nsf ddpm --data digits --seconds 60",
    "reflow": "train a run's model on its own pairs of noise and sample, to straighten its trajectories",
    "distill": "distill a run's model into a one-step sampler",
    "finetune": "fine-tune Stable Diffusion 3 on images with captions: pushforward finetune MODEL --data FOLDER",
    "generate": 'generate images with Stable Diffusion 3 or 3.5: pushforward generate MODEL "a red fox" --out fox.png',
    "app": "try runs in the browser, noise becoming data step by step: pushforward app runs/demo",
    "push": "upload a run to the Hugging Face Hub, with a card: pushforward push runs/demo OWNER/NAME",
    "list": "list the public names: presets, data sets, samplers, paths, networks, ...",
    "info": "describe a run or a saved model: preset, settings, progress, checkpoints",
    "new-package": "write a package of your own presets, parts, data and commands, with tests: pushforward new-package my_flows",
    "doctor": "check this machine: versions, devices, missing packages; --aliasing SCRIPT.py finds writes to shared memory",
}
MODULES = {"list": "listing", "new-package": "new_package"}  # a module named list would shadow the builtin here
OVERVIEW = """usage: pushforward COMMAND [ARGUMENTS] [--quiet | --json] [--debug]

Flow-based generative models: train, sample, evaluate.

commands:
{commands}

`pushforward COMMAND --help` shows a command's most used options and examples, --help-all all of them with their defaults and units.
--quiet prints the result only, --json one JSON object, --debug the full traceback of an error, --version the version;
--completion bash|zsh|fish prints a script that completes commands and options: source <(pushforward --completion bash)."""
WITHOUT_RESULT = ("app",)  # it runs until it is ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    output.take_all_letters()
    given = [_at_home(one) for one in (sys.argv[1:] if arguments is None else arguments)]
    end = given.index("--aliasing") + 1 if "--aliasing" in given else len(given)  # what follows belongs to a script
    own, script = given[:end], given[end:]
    debug = "--debug" in own
    own = [one for one in own if one != "--debug"]
    name = next((one for one in own if one not in FLAGS), "")
    ours = len(own) if name in COMMANDS or not name else own.index(name)  # what follows another package's command is its own
    asked = {FLAGS[one] for one in own[:ours] if one in FLAGS}
    given = [one for place, one in enumerate(own) if place >= ours or one not in FLAGS] + script
    if len(asked) > 1:
        return _failed("--quiet and --json are given, but they exclude each other; leave one of them out.", 2)
    mode = "text" if not asked or {"-h", "--help", "--help-all"} & set(given) else asked.pop()
    if mode != "text" and name in WITHOUT_RESULT:
        return _failed(f"{name} runs until it is ended and has no result for --{mode}; leave --{mode} out.", 2, name, mode)
    if not given or given[0] in ("-h", "--help", "help"):
        return _run(_overview, given[1:], debug)
    if given[0] == "--version":
        import pushforward

        print(pushforward.__version__)
        return 0
    if given[0] == "--completion":
        return _run(_module("completion"), given[1:], debug)
    return _run(_named(given[0]), given[1:], debug, name, mode)


def _at_home(argument: str) -> str:
    """Return an argument with the user's folder for ~, which shells leave as it is in quotes and after `=`: a folder ~ would be made."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (os.path.expanduser(value) if value.startswith("~/") else value)  # ~ alone may be a delimiter


Command = Callable[[list[str]], int | None]


def _overview(rest: list[str]) -> int:
    """Print all commands, those of other packages with their package."""
    from pushforward.registry import owner

    shown = COMMANDS | {command: f"of the package {owner(name)}" for command, name in _others().items()}
    width = max(map(len, shown)) + 2
    print(OVERVIEW.format(commands="\n".join(f"  {name:<{width}}{what}" for name, what in shown.items())))
    return 0


def _others() -> dict[str, str]:
    """Return the public names of other packages' commands, by the command.

    Raises:
        NameClashError: one is a command of pushforward, which could not be reached.
    """
    from pushforward.registry import NameClashError, names, owner

    found = {name.removeprefix("cli.").replace("_", "-"): name for name in names("cli")}
    for command, name in found.items():
        if command in COMMANDS:
            raise NameClashError(
                f"the public name {name!r} of the package {owner(name)} is the command {command} of pushforward; rename it in @export and "
                "pyproject.toml, or uninstall the package."
            )
    return found


def _module(command: str) -> Command:
    """Return the function of one of our commands, which imports its module when it runs."""
    return lambda rest: importlib.import_module(f"pushforward.cli.{MODULES.get(command, command)}").run(rest)


def _named(command: str) -> Command:
    """Return the function of a command, which is looked up when it runs; another package's has the public name cli.COMMAND."""
    if command in COMMANDS:
        return _module(command)

    def other(rest: list[str]) -> int | None:
        from pushforward.registry import UnknownNameError, get, unknown

        plugins = _others()
        if command not in plugins:
            raise UnknownNameError(unknown("command", command, [*COMMANDS, *plugins]))
        found: int | None = get(plugins[command])(rest)
        return found

    return other


def _run(command: Command, rest: list[str], debug: bool, name: str = "", mode: str = "text") -> int:
    from pushforward.errors import PushforwardError, StoppedWarning
    from pushforward.registry import NameClashError, PluginError, UnknownNameError

    failed = functools.partial(_failed, command=name, mode=mode)
    try:
        with _sigterm_raises(), warnings.catch_warnings():
            warnings.simplefilter("ignore", StoppedWarning)  # the commands print their own sentence
            warnings.showwarning = _warned if not debug else warnings.showwarning
            return output.run(mode, name, lambda: command(rest) or 0)
    except (PushforwardError, UnknownNameError, NameClashError, PluginError) as error:
        if debug:
            raise
        return failed(str(error), error.exit_status)
    except BrokenPipeError:
        output.close_stdout()
        return 0
    except _TerminatedError:
        return failed("terminated.", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return failed("interrupted.", 128 + signal.SIGINT)
    except (MemoryError, RuntimeError, TypeError) as error:
        from pushforward._memory import is_memory_error

        if debug or not is_memory_error(error):
            raise
        return failed(f"the memory is too small for this command ({str(error).splitlines()[0]}); give smaller numbers.", 1)
    except OSError as error:
        if debug:
            raise
        where = f" for {error.filename}" if error.filename else ""
        return failed(f"system error{where}: {error.strerror or error}; check the path, its permissions and free space.", 1)


class _TerminatedError(BaseException):
    """SIGTERM as an exception, so that files in the making are removed and locks released."""


def _sigterm_raises() -> contextlib.AbstractContextManager[None]:
    from pushforward.training.signals import handled_by

    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != process:  # a worker of a DataLoader, forked with this handler
            os._exit(128 + number)
        raise _TerminatedError

    return handled_by(stop, signal.SIGTERM)


def _warned(message: Warning | str, *where: object, **more: object) -> None:
    """Print a warning as a sentence, without the line of code that it comes from."""
    if not output.is_quiet():
        print(f"pushforward: warning: {message}", file=sys.stderr)


def _failed(sentence: str, status: int, command: str = "", mode: str = "text") -> int:
    rank = f" [process {os.environ.get('RANK')}]" if "TORCHELASTIC_RUN_ID" in os.environ else ""
    print(f"pushforward{rank}: {sentence}", file=sys.stderr)
    if mode == "json":
        try:
            output.print_object({"command": command, "exit_status": status, "error": sentence})
        except OSError:  # what failed may be stdout itself; stderr has the sentence
            output.close_stdout()
    return status
