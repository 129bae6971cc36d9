"""`pushforward compare`: train or load several models of one data set, measure all of them equally, and write one table."""

import functools
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pushforward._checks import whole
from pushforward.cli.comparing import Budget, Measuring, StoppedError, Training, attempted
from pushforward.cli.comparison_files import Table, check_folder_of, picture_of
from pushforward.cli.contestants import Contestant, check_same_data, check_unchanged, contestants, grouped, labels_of, split
from pushforward.cli.explained import explained
from pushforward.cli.joined import joined
from pushforward.cli.options import check_positive, check_whole, parse
from pushforward.cli.reported import show, show_reported
from pushforward.cli.run import described_run, device_of, load_data, notify
from pushforward.data.load import options_from_text
from pushforward.errors import UserError
from pushforward.evaluation.judge import EVALUATIONS, HELD
from pushforward.evaluation.measured import Measured
from pushforward.evaluation.yardstick import Yardstick
from pushforward.training.processes import alone

DESCRIPTION = "Train or load several models of one data set, and measure them in one table."


@dataclass(frozen=True)
class Compare:
    """Train or load several models of one data set, and measure them in one table.

    Args:
        models: run folders, and presets to train, each with its options in quotes: nsf "rectified_flow net:dit" runs/mine. Runs that
            differ in their seeds only are one model.
        data: data set to train presets on (`pushforward list data`), or a path; by default that of the runs.
        data_options: options of the data set, as NAME VALUE pairs.
        seconds: training time of each preset and seed: the steps that fit are measured first, on a CPU as those of an idle machine. At most
            a quarter of it is validation.
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


@dataclass(frozen=True)
class _Prepared:
    """A comparison whose options fit together: what it measures and what it trains.

    Args:
        out: its folder, or None.
        settings: what must be equal to continue it.
        groups: run folders by label.
        chosen: presets to train.
        training: trains them, or None.
        yardstick: what all are measured with.
        measuring: measures them.
    """

    out: Path | None
    settings: Mapping[str, Any]
    groups: Mapping[str, Sequence[Path]]
    chosen: Sequence[Contestant]
    training: Training | None
    yardstick: Yardstick
    measuring: Measuring

    def jobs(self, seeds: Sequence[int]) -> list[tuple[str, Callable[[], Measured]]]:
        """Return what is measured, in the order of the table: the label of its row, and what trains and measures it."""
        jobs: list[tuple[str, Callable[[], Measured]]] = []

        def add(row: str, label: str, act: Callable[[Path | None], Measured]) -> None:
            first = all(row != before for before, _ in jobs)  # whose samples are drawn
            picture = picture_of(self.out, row) if self.out is not None and first else None
            jobs.append((row, functools.partial(attempted, label, act, picture)))

        for row, members in self.groups.items():
            for folder in members:
                add(row, str(folder), functools.partial(self.measuring.measured, folder, str(folder)))
        for seed in seeds if self.training is not None else ():
            for one in self.chosen:
                add(one.label, f"{one.label}, seed {seed}", functools.partial(self._trained_and_measured, one, seed))
        return jobs

    def _trained_and_measured(self, one: Contestant, seed: int, picture: Path | None) -> Measured:
        assert self.training is not None
        return self.measuring.measured(self.training.trained(one, seed), f"{one.label}, seed {seed}", picture)


def compare(options: Compare, command: str) -> int:
    """Compare the models, write and print the table, and return the exit status.

    Several processes train and measure a model each, as one process does, and the first one writes the table.
    """
    with joined() as among, alone():
        with among.agreed("preparing the comparison"):
            prepared = _prepared(options, among.local_rank)
        if prepared.training is not None and among.size > 1:
            timed = functools.partial(prepared.training.timed, prepared.chosen)
            prepared.training.steps.update(among.of_main(timed, "timing the steps"))
        expected = {**{one.label: len(options.seeds) for one in prepared.chosen}, **dict.fromkeys(prepared.groups, 1)}
        table = Table(prepared.out, prepared.settings, command, prepared.yardstick, expected) if among.main else None
        among.of_main(lambda: table.write() if table is not None else None, "writing the table")
        jobs, stopped = prepared.jobs(options.seeds), 0
        for start in range(0, len(jobs), among.size):
            some = jobs[start : start + among.size]
            found = among.gather(_done(some[among.rank][1]) if among.rank < len(some) else None)
            measured = [(row, one) for (row, _), one in zip(some, found, strict=False) if isinstance(one, Measured)]
            among.of_main(functools.partial(_add, table, measured), "writing the table")
            stopped = next((int(one) for one in found if isinstance(one, int)), 0)
            if stopped:
                break
        failed = among.of_main(functools.partial(_finished, table), "writing the table")
    if not stopped:
        return int(failed)
    if table is not None:
        out = prepared.out
        kept = (
            f"what is trained and measured is kept in {out}, and the same command continues." if out else "nothing is kept without --out."
        )
        notify(f"pushforward: stopped; {kept}")
    return 128 + stopped


def _prepared(options: Compare, local_rank: int) -> _Prepared:
    """Return what is compared, after checking all options.

    Raises:
        UserError: they do not fit together.
    """
    device = device_of(options.device, local_rank)
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
    measuring = Measuring(yardstick, options.evaluations, options.scored, options.checkpoint, device, out)
    return _Prepared(out, settings, groups, chosen, training, yardstick, measuring)


def _done(act: Callable[[], Measured]) -> Measured | int:
    """Return the measurements of a model, or the signal that stopped it."""
    try:
        return act()
    except StoppedError as stop:
        return stop.signal
    except KeyboardInterrupt:
        return int(signal.SIGINT)


def _add(table: Table | None, measured: Sequence[tuple[str, Measured]]) -> None:
    assert table is not None
    for row, one in measured:
        table.add(row, one)


def _finished(table: Table | None) -> bool:
    """Complete and print the table, and return whether a model has no results."""
    assert table is not None
    table.finish()
    return table.failed


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
