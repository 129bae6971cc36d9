"""`pushforward reflow RUN --rounds k`: train a run's model on its own pairs repeatedly, each round as a separate run."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from pushforward.cli.joined import joined
from pushforward.cli.options import check_positive, check_whole, parse
from pushforward.cli.output import result
from pushforward.cli.rehearse import Before, check_alone, rehearse
from pushforward.cli.run import check_folder, described_run, device_of, load_data, notify, run_config, write_config
from pushforward.cli.starting import bars, finish
from pushforward.cli.train import Source
from pushforward.data.pairs import Pairs
from pushforward.errors import UserError
from pushforward.evaluation.straightness import Straightness, straightness
from pushforward.families.checks import device_of as model_device
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.formats.config import call_checked, to_plain
from pushforward.formats.model import load, model_config
from pushforward.formats.packages import stamped
from pushforward.formats.run import check_free, checkpoints, is_launched, step_of
from pushforward.training.grids import SampleGrid
from pushforward.training.processes import Processes
from pushforward.training.progress import MetricsFile, read_metrics
from pushforward.training.reflow import pairs_among
from pushforward.training.settings import Settings
from pushforward.training.state import newest
from pushforward.training.trainer import Trainer

MEASURED = 256  # pairs that a dry run solves, at least
VALIDATION_SHARE = 10  # one additional validation pair per 10 training pairs, to select the best checkpoint


@dataclass(frozen=True)
class OnPairs:
    """Options for training on a run's own pairs.

    Args:
        run: run folder, folder written by pushforward.save, or pipeline folder of diffusers; with conditions a run, which names its data.
        pairs: pairs of noise and sample to train on.
        steps: optimisation steps; by default those of the run.
        lr: peak learning rate; by default half of the run's.
        batch_size: samples per step; by default the run's.
        block: samples of a micro-block, which several processes share out; by default the run's.
        out: run folder of the result; by default derived from the run's name.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        seed: seed of pairs and training.
        device: "auto", "cpu", "cuda", ...
        resume: continue an interrupted run.
        overwrite: replace existing runs.
        dry_run: print what the run would be, with its memory and time, and write nothing.
    """

    run: Annotated[Path, tyro.conf.Positional]
    pairs: int = 20_000
    steps: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    block: int | None = None
    out: Path | None = None
    checkpoint: str = "best"
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_whole(self, {"pairs": 10, "steps": 1, "batch_size": 1, "block": 1, "seed": 0})
        check_positive(self, "lr")


@dataclass(frozen=True)
class Reflow(OnPairs):
    """Straighten a run's trajectories.

    Args:
        rounds: number of rounds; round k is the run OUT-k, by default RUN-reflow-k.
    """

    rounds: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, {"rounds": 1})


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(Reflow, arguments, prog="pushforward reflow", description="Train a run's model on its own pairs of noise and sample.")
    name = str(options.out or f"{str(options.run).rstrip('/')}-reflow")
    outs = [Path(f"{name}-{number}") for number in range(1, options.rounds + 1)]
    teacher = options.run
    with joined_for(options) as among:
        among.of_main(lambda: repr(check_pairs(options, outs, among)), "checking the run folders")
        if options.dry_run:
            model = path_model(teacher, options, among)
            return rehearse_on_pairs("reflow", model, model, outs[0], options, among)
        for number, out in enumerate(outs, 1):
            with among.agreed("reading the run"):
                model = path_model(teacher, options, among)
            status = train_on_pairs(model, model, teacher, out, options, {"reflow": {"of": str(teacher), "round": number}}, among)
            if status:
                return status
            teacher, options = out, dataclasses.replace(options, checkpoint="best")
    return 0


def joined_for(options: OnPairs) -> contextlib.AbstractContextManager[Processes]:
    """Return the processes of a command that trains on pairs, which wait for each other as those of the run do."""
    device_of(options.device)  # refused before anything is read
    timeout = run_config(options.run).get("training", {}).get("timeout", Settings.timeout)
    return joined(float(timeout), Processes.remedy)


def check_pairs(options: OnPairs, outs: Sequence[Path], among: Processes) -> PathModel:
    """Raise if the options cannot be followed, before anything is loaded or removed; return the described model of the run.

    Args:
        options: the command's options.
        outs: the run folders to write; those that this launch of torchrun began are continued.
        among: the processes.

    Raises:
        UserError: an option does not fit the run, or a folder cannot be written.
        CheckpointError: a run to resume has no intact checkpoint.
    """
    device_of(options.device)
    config = run_config(options.run)
    _settings(config, options).check_shares(among.size)
    for out in outs:
        if out.resolve() in (options.run.resolve(), *options.run.resolve().parents):
            raise UserError(f"--out is {out}, the run that the pairs come from; give another folder.")
        if is_launched(out, among.launch):
            continue
        if not (options.resume and out.is_dir()):
            check_free(out, options.overwrite)
        elif checkpoints(out).newest_whole() is None:
            newest(out)  # raises
        check_folder(out, f"--out is {out}")
    return _as_path_model(described_run(options.run, options.checkpoint), options.run)


def path_model(folder: Path, options: OnPairs, among: Processes) -> PathModel:
    """Return a run's model, which must be a path model."""
    return _as_path_model(load(folder, checkpoint=options.checkpoint).to(device_of(options.device, among.local_rank)), folder)


def _as_path_model(model: GenerativeModel, folder: Path) -> PathModel:
    if not isinstance(model, PathModel):
        raise UserError(
            f"{folder} holds a {type(model).__name__}, but only path models, such as rectified_flow, have such pairs; give a run of one."
        )
    return model


def train_on_pairs(
    teacher: PathModel, student: PathModel, of: Path, out: Path, options: OnPairs, facts: Mapping[str, Any], among: Processes
) -> int:
    """Train a student on its teacher's pairs into a run folder `out`, print the straightness of both, and return the exit status."""
    config = run_config(of)
    section = dict(config.get("data", {}))
    settings = _settings(config, options)
    resume, done = among.of_main(lambda: _continued(out, options, settings, among.launch), "checking the run folder")
    if done:
        result(out, run=out, step=settings.steps, steps=settings.steps)
        return 0
    if among.main:
        notify(f"solving {options.pairs} trajectories of {of} ...")
    train = pairs_of(teacher, options.pairs, section, options.seed, among)
    validation = pairs_of(teacher, max(1, options.pairs // VALIDATION_SHARE), section, options.seed + 1, among)
    before = among.of_main(lambda: _straightness(teacher, section, options.seed), "measuring the straightness")
    whole = stamped({**model_config(student), "data": section, **facts, "training": to_plain(vars(settings))})
    torch.manual_seed(settings.seed)
    trainer = Trainer(
        student, train, validation=validation, out=out, resume=resume, overwrite=options.overwrite, config={"data": section, **facts},
        callbacks=[*bars(), MetricsFile(out / "metrics.jsonl"), SampleGrid(out / "samples")], **vars(settings),
    )  # fmt: skip
    among.of_main(lambda: write_config(out, whole), "writing the configuration")
    trainer.fit()
    status = finish(trainer)
    if status == 0 and "reflow" in facts:
        after = among.of_main(lambda: _straightness(load(out), section, options.seed), "measuring the straightness")
        if among.main:
            print(f"straightness (0 is a straight line): {before} before, {after} after.")
            result(out, straightness_before=before, straightness=after)
    return status


def rehearse_on_pairs(name: str, teacher: PathModel, student: PathModel, out: Path, options: OnPairs, among: Processes) -> int:
    """Print what training a student on its teacher's pairs would take, of several rounds the first, and return the exit status."""
    check_alone(among)
    config = run_config(options.run)
    section, settings = dict(config.get("data", {})), _settings(config, options)
    some, validation = min(options.pairs, max(settings.batch_size, MEASURED)), max(1, options.pairs // VALIDATION_SHARE)
    began = time.perf_counter()
    train = pairs_of(teacher, some, section, options.seed, among)
    seconds = (time.perf_counter() - began) * (options.pairs + validation) / some
    before = Before(f"solving {options.pairs + validation:,} trajectories of {options.run}", seconds, options.pairs, validation)
    resume = options.resume and out.is_dir()
    source = Source(train, train, section, out, model_device(student), resume, launched=False)
    return rehearse(name, student, settings, source, options.overwrite, before=before)


def pairs_of(model: PathModel, n: int, section: Mapping[str, Any], seed: int, among: Processes) -> Pairs:
    """Return n pairs of a model, with conditions from its training data, which the processes compute together."""
    with among.agreed("reading the conditions"):
        cond = _cond(model, n, section, seed)
    return pairs_among(among, model, n, cond, generator=_generator(seed))


def _straightness(model: GenerativeModel, section: Mapping[str, Any], seed: int) -> Straightness:
    return straightness(model, 1000, _cond(model, 1000, section, seed), generator=_generator(seed))


def _cond(model: GenerativeModel, n: int, section: Mapping[str, Any], seed: int) -> Any:
    if not model.conditioning:
        return None
    cond = load_data(section, "train").cond
    assert cond is not None  # a conditional model was trained on them
    return cond[torch.randint(len(cond), (n,), generator=_generator(seed))].to(model_device(model))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _settings(config: Mapping[str, Any], options: OnPairs) -> Settings:
    own = {**config.get("training", {}), "flip": False, "shift": 0, "seed": options.seed}
    own["lr"] = own.get("lr", Settings.lr) / 2 if options.lr is None else options.lr
    for name in ("steps", "batch_size", "block"):
        if getattr(options, name) is not None:
            own[name] = getattr(options, name)
    return call_checked(Settings, own, "training")


def _continued(out: Path, options: OnPairs, settings: Settings, launch: str) -> tuple[bool, bool]:
    """Return whether a run folder is continued, as it was asked or as this launch of torchrun began it, and whether that is done."""
    resume = bool(checkpoints(out).names()) if is_launched(out, launch) else options.resume and out.is_dir()
    return resume, resume and _done(out, settings)


def _done(out: Path, settings: Settings) -> bool:
    """Whether a run folder already contains its last step, and its validation, which a signal may have cut short."""
    last = checkpoints(out).newest_whole()
    validated = {row.get("step") for row in read_metrics(out / "metrics.jsonl") if "validation_loss" in row}
    return last is not None and step_of(last.name) == settings.steps and settings.steps in validated
