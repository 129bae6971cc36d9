"""What --dry-run prints: data, model, memory, time, checkpoints and the folder of a run, which is not begun."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from pushforward._memory import free_memory
from pushforward.cli.output import result
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.formats.run import Checkpoints, checkpoints, step_of
from pushforward.training.defaults import Defaults
from pushforward.training.processes import Processes
from pushforward.training.rehearsal import Rehearsal, rehearsed
from pushforward.training.settings import Settings

if TYPE_CHECKING:
    from pushforward.cli.train import Source


def check_alone(among: Processes) -> None:
    """Raise in a process of several: what one process takes is measured by one.

    Raises:
        UserError: there are several.
    """
    if among.size > 1:
        raise UserError("--dry-run measures one process, but torchrun has started several; leave torchrun out.")


@dataclass(frozen=True)
class Before:
    """What is done before the steps of a run, such as pairs that are solved, and how many examples it makes.

    Args:
        what: names it.
        seconds: its time, from a part of it; None if it was not measured.
        train: number of training examples.
        validation: number of validation examples.
    """

    what: str
    seconds: float | None
    train: int
    validation: int


def rehearse(
    name: str,
    model: GenerativeModel,
    settings: Settings,
    source: "Source",
    overwrite: bool,
    *,
    chosen: Defaults = Defaults(),
    train: Any = None,
    before: Before | None = None,
) -> int:
    """Print what a run would take, and return the exit status.

    Args:
        name: what is trained.
        model: the model, on its device.
        settings: those of the run.
        source: its data, folder and device.
        overwrite: whether a former run would be replaced.
        chosen: settings that were chosen for the data.
        train: what is trained on, if these are not the data themselves, such as their latents, or some of it.
        before: what is done before the steps.
    """
    before = before or Before("", 0.0, len(source.train), len(source.validation))
    newest = checkpoints(source.out).newest_whole() if source.resume else None
    start = 0 if newest is None else step_of(newest.name)
    found = rehearsed(model, settings, source.train if train is None else train, before.validation, start, before.train)
    facts = described(name, settings, source, overwrite, chosen, found, start, before)
    result(source.out, **facts)
    show(facts)
    return 0


def described(
    name: str, settings: Settings, source: "Source", overwrite: bool, chosen: Defaults, found: Rehearsal, start: int, before: Before
) -> dict[str, Any]:  # fmt: skip
    """Return what --json prints of a dry run: sizes in bytes, times in seconds."""
    data = source.train
    known = sum(size for size in found.memory.values() if size is not None)
    free = free_memory() if source.device.type == "cpu" else float(torch.cuda.mem_get_info(source.device)[0])
    state = "continued" if source.resume else "replaced" if overwrite and source.out.is_dir() else "created"
    return {
        "dry_run": True,
        "name": name,
        "data": {
            "name": data.name, "train": before.train, "validation": before.validation, "shape": list(data.shape),
            "levels": data.levels, "classes": data.classes, "fingerprint": source.section.get("fingerprint"),
        },
        "chosen": {**chosen.model, **chosen.training},
        "chosen_for": chosen.reason,
        "parameters": found.parameters,
        "trained_parameters": found.trained,
        "device": str(source.device),
        "memory": {**found.memory, "total": known, "peak": found.peak, "free": free},
        "time": {
            "step": found.step, "measured_steps": found.measured, "first_step": start, "steps": settings.steps,
            "may_end_early": found.may_end_early, "training": found.training, "validation": found.validation,
            "before": before.what, "before_seconds": before.seconds,
            "total": found.training + found.validation + (before.seconds or 0.0),
        },
        "checkpoint": {"bytes": found.checkpoint, "kept": Checkpoints.keep + 1, "every": settings.checkpoint_every},
        "run": source.out,
        "run_is": state,
    }  # fmt: skip


def show(facts: dict[str, Any]) -> None:
    """Print the facts of a dry run as a table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    data, memory, time, saved = (facts[name] for name in ("data", "memory", "time", "checkpoint"))
    parts = [f"{data['train']:,} training and {data['validation']:,} validation examples of shape {tuple(data['shape'])}"]
    parts += [f"{data['levels']} levels"] if isinstance(data["levels"], int) else []
    parts += [f"{data['classes']} classes"] if data["classes"] else []
    rows = {"data": f"{data['name']}: {', '.join(parts)}"}
    if facts["chosen"]:
        rows["chosen"] = f"for {facts['chosen_for']}: {', '.join(f'{name} {value}' for name, value in facts['chosen'].items())}"
    trained = "" if facts["trained_parameters"] == facts["parameters"] else f", of which {facts['trained_parameters']:,} are trained"
    rows["model"] = f"{facts['name']}: {facts['parameters']:,} parameters{trained}, on {facts['device']}"
    taken = {name: size for name, size in memory.items() if name not in ("total", "peak", "free") and size != 0}
    sizes = ", ".join(f"{name} {'not known' if size is None else size_of(size)}" for name, size in taken.items())
    rows["memory"] = f"{size_of(memory['total'])} of {size_of(memory['free'])} that are free: {sizes}"
    if memory["peak"] is not None:
        rows["memory, measured"] = f"{size_of(memory['peak'])} at most"
    rows["time"] = (
        f"about {duration(time['total'])}: {time['steps'] - time['first_step']:,} steps of {duration(time['step'])} "
        f"({time['measured_steps']} measured), validation up to {duration(time['validation'])}"
        f"{'; less if validation no longer improves' if time['may_end_early'] else ''}"
    )
    if time["before"]:
        seconds = time["before_seconds"]
        rows["before"] = f"{time['before']}, {'of unknown time' if seconds is None else f'about {duration(seconds)}'}"
    rows["checkpoint"] = f"{size_of(saved['bytes'])}, up to {saved['kept']} are kept"
    rows["run"] = f"{facts['run']}, which would be {facts['run_is']}; nothing is written"
    for name, text in rows.items():
        table.add_row(name, text)
    Console().print(table, highlight=False, markup=False)


def size_of(count: float) -> str:
    """Return bytes in a unit in which they have up to four digits."""
    if not math.isfinite(count):
        return "unknown"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Return a time in a unit in which it is above 1: ms, s, min, h or days."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for unit, size in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if seconds < size * 2:
            return f"{seconds:.3g} {unit}"
        seconds /= size
    return f"{seconds:.3g} days"
