"""`pushforward compare`: train or load several models of one data set, measure all of them equally, and write one table."""

import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pushforward._checks import whole
from pushforward.cli.comparing import Budget, Measuring, StoppedError, Training, attempted
from pushforward.cli.comparison_files import Table, check_folder_of
from pushforward.cli.contestants import Contestant, check_same_data, check_unchanged, contestants, grouped, labels_of, split
from pushforward.cli.explained import explained
from pushforward.cli.options import check_positive, check_whole, parse
from pushforward.cli.reported import show, show_reported
from pushforward.cli.run import described_run, device_of, load_data, notify
from pushforward.data.load import options_from_text
from pushforward.errors import UserError
from pushforward.evaluation.judge import EVALUATIONS, HELD
from pushforward.evaluation.measured import Measured
from pushforward.evaluation.yardstick import Yardstick

DESCRIPTION = "Train or load several models of one data set, and measure them in one table."


@dataclass(frozen=True)
class Compare:
    """Train or load several models of one data set, and measure them in one table.

    Args:
        models: run folders, and presets to train, each with its options in quotes: nsf "rectified_flow net:dit" runs/mine. Runs that
            differ in their seeds only are one model.
        data: data set to train presets on (`pushforward list data`), or a path; by default that of the runs.
        data_options: options of the data set, as NAME VALUE pairs.
        seconds: training time of each preset and seed: the steps that fit are measured first, on a CPU as those of an idle machine.
        train_steps: optimisation steps of each preset and seed, instead of seconds.
        seeds: seeds that each preset is trained with.
        out: folder of table.html, table.csv, table.json, pictures and runs; the same command continues what it holds. By default
            runs/compare-DATA if presets are trained, else only the terminal.
        samples: test examples, and as many samples, that are compared, at most.
        scored: test examples for likelihoods.
        evaluations: numbers of network evaluations at which samples are measured.
        split: split to measure on; choose on validation, report on test.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        reported: print what `pushforward evaluate` has already written into the runs, and measure nothing.
        explain: describe the models instead of their results; without runs, for untrained models of each kind.
        device: "auto", "cpu", "cuda", ...
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    data: str = ""
    data_options: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    train_steps: int | None = None
    seeds: tuple[int, ...] = (0,)
    out: Path | None = None
    samples: int = 500
    scored: int = 64
    evaluations: tuple[int, ...] = EVALUATIONS
    split: Literal["test", "validation"] = "test"
    checkpoint: str = "best"
    reported: bool = False
    explain: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        check_whole(self, {"train_steps": 1, "samples": 8, "scored": 1})
        check_positive(self, "seconds")
        for name in ("seeds", "evaluations"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{name} is {' '.join(map(str, values)) or 'empty'}, but it needs at least one number, and each once.")
            for value in values:
                whole(f"--{name}", value, int(name == "evaluations"))


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(Compare, arguments, prog="pushforward compare", description=DESCRIPTION)
    if options.explain:
        show(explained([Path(one) for one in options.models], device_of(options.device)))
        return 0
    if not options.models:
        raise UserError(
            "compare needs models: `pushforward compare runs/a runs/b`, `pushforward compare nsf ddpm --data digits --seconds 60`, "
            "or --explain for a comparison of model families."
        )
    if options.reported:
        show_reported([Path(one) for one in options.models])
        return 0
    return compare(options, "pushforward compare " + shlex.join(arguments))


def compare(options: Compare, command: str) -> int:
    """Compare the models, write and print the table, and return the exit status."""
    device = device_of(options.device)
    runs, presets = split(options.models)
    _check_budget(options, bool(presets))
    section: Mapping[str, Any] | None = None
    if options.data:
        section = {"name": options.data, **(options_from_text(options.data, options.data_options) if options.data_options else {})}
    if runs:
        section = check_same_data(runs, section)
        for folder in runs:
            described_run(folder, options.checkpoint)  # all of them, before anything is measured
    groups = grouped(runs, labels_of(presets))
    assert section is not None
    out = options.out or (Path("runs") / f"compare-{Path(section['name']).stem}" if presets else None)
    settings = {"data": _plain(section), "seconds": options.seconds, "train_steps": options.train_steps, "split": options.split}
    check_folder_of(out, settings)
    train, validation, test = (load_data(section, part) for part in ("train", "validation", options.split))
    chosen = contestants(presets, str(section["name"]), train)
    section = {**section, "fingerprint": train.fingerprint()}
    training = None
    if out is not None and chosen:
        training = Training(out, section, train, validation, device, Budget(options.seconds, options.train_steps), options.seeds)
    check_unchanged([*runs, *(training.begun(chosen) if training else [])], section)
    yardstick = Yardstick(train.in_memory(HELD), validation.in_memory(HELD), test.in_memory(HELD), options.samples)
    table = Table(out, settings, command, yardstick, {**{one.label: len(options.seeds) for one in chosen}, **dict.fromkeys(groups, 1)})
    table.write()
    measuring = Measuring(yardstick, options.evaluations, options.scored, options.checkpoint, device, out)
    try:
        for label, folder in ((label, folder) for label, members in groups.items() for folder in members):
            table.add(label, attempted(str(folder), measuring.measured, folder, str(folder), table.picture(label)))
        if training is not None:
            for one, seed in ((one, seed) for seed in options.seeds for one in chosen):
                label = f"{one.label}, seed {seed}"
                table.add(one.label, attempted(label, _trained_and_measured, training, measuring, one, seed, table.picture(one.label)))
    except (StoppedError, KeyboardInterrupt) as stop:
        table.finish()
        kept = (
            f"what is trained and measured is kept in {out}, and the same command continues." if out else "nothing is kept without --out."
        )
        notify(f"pushforward: stopped; {kept}")
        return 128 + (stop.signal if isinstance(stop, StoppedError) else signal.SIGINT)
    table.finish()
    return 1 if table.failed else 0


def _trained_and_measured(training: Training, measuring: Measuring, one: Contestant, seed: int, picture: Path | None) -> Measured:
    return measuring.measured(training.trained(one, seed), f"{one.label}, seed {seed}", picture)


def _check_budget(options: Compare, presets: bool) -> None:
    """Raise unless there is data, and one budget, if and only if presets are to be trained."""
    given = [name for name in ("seconds", "train_steps") if getattr(options, name) is not None]
    if not presets:
        if given or options.data or options.seeds != (0,):
            raise UserError(
                "--data, --seconds, --train-steps and --seeds are for presets to train, but only runs are given; leave them out."
            )
        return
    if not options.data:
        raise UserError("presets to be trained need data: give --data digits (`pushforward list data` shows all), or the path of a file.")
    if len(given) != 1:
        raise UserError("presets to be trained need one budget, equal for all: give --seconds 60 or --train-steps 2000.")


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "fingerprint"}
