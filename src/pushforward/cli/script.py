"""`pushforward doctor --aliasing SCRIPT.py [ARGUMENTS]`: run a script under the check for writes to shared memory."""

import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from pushforward.cli.output import result
from pushforward.errors import UserError

WATCH = os.path.join("pushforward", "debug", "watch.py")
WRAPPERS = (os.path.join("torch", "_compile.py"), os.path.join("_dynamo", "eval_frame.py"))  # of a dispatch mode's method


def check_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a script as `python SCRIPT.py ARGUMENTS` would, print the findings, and return the exit status.

    The status is 1 if there are findings or if the script fails, else the script's own.

    Raises:
        UserError: there is no such file.
    """
    if not script.is_file():
        raise UserError(f"--aliasing is {str(script)!r}, but there is no such file; give the path of a Python script.")
    from pushforward.debug.aliasing import detect_aliasing

    argv, path = sys.argv, sys.path
    sys.argv, sys.path = [str(script), *arguments], [str(script.resolve().parent), *path]
    status = 0
    try:
        with detect_aliasing(raises=False) as report:
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        status = _status(stop.code)
    except Exception as error:
        _print(error, str(script))
        status = 1
    finally:
        sys.argv, sys.path = argv, path
    result(None, script=script, findings=[str(one) for one in report.findings])
    print(f"{script}: {_counted(len(report.findings))}")
    if report.findings or report.unseen:
        print(report)
    return 1 if report.findings else status


def _status(code: object) -> int:
    """Return the exit status of sys.exit(code), which prints what is no number."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _print(error: Exception, script: str) -> None:
    """Print the traceback from the script's own frame on, as Python does, without the frames of the check."""
    shown = traceback.TracebackException.from_exception(error)
    files = [frame.filename for frame in shown.stack]
    start = files.index(script) if script in files else 0
    end = next((place for place, file in enumerate(files) if file.endswith(WATCH)), len(files))
    while end < len(files) and files[end - 1].endswith(WRAPPERS):
        end -= 1
    shown.stack[:] = shown.stack[start:end]
    for line in shown.format():
        print(line, end="", file=sys.stderr)


def _counted(findings: int) -> str:
    return "no write to shared memory" if not findings else f"{findings} finding{'s' if findings > 1 else ''}"
