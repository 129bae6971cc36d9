"""`pushforward doctor`: versions and devices of this machine, what is missing; with --aliasing, what is wrong in a script's memory."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pushforward.cli.options import parse
from pushforward.cli.output import result
from pushforward.cli.script import check_script
from pushforward.errors import UserError

NEEDED = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "pyyaml", "tyro", "rich", "matplotlib", "pillow", "jinja2", "jaxtyping")
EXTRAS = {
    "sd3": ("transformers", "peft", "sentencepiece"),
    "app": ("gradio",),
    "data": ("datasets",),
    "log": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow-skinny",),
}
ALIASING = "--aliasing"


@dataclass(frozen=True)
class Doctor:
    """Check this machine, or a script.

    Args:
        aliasing: run this script instead, as `python SCRIPT.py [ARGUMENTS]`, and print where it writes shared memory; everything
            after it belongs to the script.
    """

    aliasing: Annotated[Path | None, tyro.conf.arg(metavar="SCRIPT.py [ARGUMENTS]")] = None


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 1 if a requirement is missing, or if there are findings in a script."""
    own = arguments.index(ALIASING) if ALIASING in arguments else len(arguments)
    options = parse(
        Doctor, arguments[: own + 2], prog="pushforward doctor", description="Check this machine, or a script for writes to shared memory."
    )
    if options.aliasing is not None:
        if own:
            raise UserError(f"{' '.join(arguments[:own])} stands before {ALIASING}; arguments of the script follow it.")
        return check_script(options.aliasing, arguments[own + 2 :])
    found = _found()
    missing = [name for name in NEEDED if _version(name) is None]
    problems = [f"{one.name}: {one.text}" for one in found if one.problem]
    result("\n".join(problems), found={one.name: one.text for one in found}, problems=problems)
    table = Table(box=None, show_header=False, pad_edge=False)
    for one in found:
        table.add_row(one.name, Text(one.text, style="red" if one.problem else ""))
    Console(soft_wrap=True).print(table, highlight=False)
    return 1 if missing else 0


@dataclass(frozen=True)
class _Row:
    """A line of the report; `problem` is whether something does not work as it is."""

    name: str
    text: str
    problem: bool = False


def _found() -> list[_Row]:
    """Return what there is on this machine."""
    rows = [_Row("python", f"{platform.python_version()} on {platform.platform()}")]
    for name in ("pushforward", *NEEDED):
        version = _version(name)
        rows.append(_Row(name, version or "missing: pip install -c constraints.txt -e . (in the checkout)", version is None))
    rows.append(_Row("processor", f"{os.cpu_count()} cores"))
    if _version("torch") is not None:
        rows += _torch()
    compiler = shutil.which("c++") or shutil.which("g++")
    rows.append(_Row("C++ compiler", compiler or "missing: torch.compile needs one on the CPU (apt install g++)"))
    for extra, packages in EXTRAS.items():
        lacking = [name for name in packages if _version(name) is None]
        hint = f"not installed ({', '.join(lacking)}): pip install -c constraints.txt -e '.[{extra}]'"
        rows.append(_Row(f"extra {extra}", hint if lacking else "installed"))
    free = shutil.disk_usage(".").free / 2**30
    full = "" if free > 1 else ": checkpoints may not fit; give --out on another disk"
    rows.append(_Row("free disk here", f"{free:.1f} GiB{full}", bool(full)))
    writable = os.access(".", os.W_OK)
    rows.append(_Row("this folder", "writable" if writable else "not writable: give --out elsewhere", not writable))
    return rows


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> list[_Row]:
    import torch

    from pushforward.training.compiling import obstacle

    why = obstacle()
    rows = [_Row("torch.compile", f"not on the CPU: {why}", True)] if why else []
    rows.append(_Row("torch threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS sets them)"))
    if not torch.accelerator.is_available():
        return [*rows, _Row("accelerator", "none: everything runs on the CPU")]
    kind = torch.accelerator.current_accelerator()
    for index in range(torch.accelerator.device_count()):
        name = torch.cuda.get_device_name(index) if kind is not None and kind.type == "cuda" else ""
        rows.append(_Row(f"accelerator {index}", f"{kind} {name}".strip()))
    if torch.cuda.is_available():
        rows.append(_Row("bfloat16", "yes" if torch.cuda.is_bf16_supported() else "no: use float32 or fp16"))
    return rows
