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

from pushforward.cli.options import parse
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
    table = Table(box=None, show_header=False, pad_edge=False)
    missing = []
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    for name in ("pushforward", *NEEDED):
        version = _version(name)
        table.add_row(name, version or "[red]missing[/red]: pip install -c constraints.txt -e . (in the checkout)")
        missing += [name] if version is None else []
    table.add_row("processor", f"{os.cpu_count()} cores")
    if "torch" not in missing:
        _torch(table)
    table.add_row(
        "C++ compiler", shutil.which("c++") or shutil.which("g++") or "missing: torch.compile needs one on the CPU (apt install g++)"
    )
    for extra, packages in EXTRAS.items():
        lacking = [name for name in packages if _version(name) is None]
        hint = f"not installed ({', '.join(lacking)}): pip install -c constraints.txt -e '.\\[{extra}]'"
        table.add_row(f"extra {extra}", hint if lacking else "installed")
    free = shutil.disk_usage(".").free / 2**30
    table.add_row("free disk here", f"{free:.1f} GiB" + ("" if free > 1 else ": [red]checkpoints may not fit[/red]"))
    table.add_row("this folder", "writable" if os.access(".", os.W_OK) else "[red]not writable[/red]: give --out elsewhere")
    Console(soft_wrap=True).print(table, highlight=False)
    return 1 if missing else 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch(table: Table) -> None:
    import torch

    from pushforward.training.compiling import obstacle

    if why := obstacle():
        table.add_row("torch.compile", f"[red]not on the CPU[/red]: {why}")
    table.add_row("torch threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS sets them)")
    if not torch.accelerator.is_available():
        table.add_row("accelerator", "none: everything runs on the CPU")
        return
    kind = torch.accelerator.current_accelerator()
    for index in range(torch.accelerator.device_count()):
        name = torch.cuda.get_device_name(index) if kind is not None and kind.type == "cuda" else ""
        table.add_row(f"accelerator {index}", f"{kind} {name}".strip())
    if torch.cuda.is_available():
        table.add_row("bfloat16", "yes" if torch.cuda.is_bf16_supported() else "no: use float32 or fp16")
