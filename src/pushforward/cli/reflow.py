"""`pushforward reflow RUN --rounds k`: train a run's model on its own pairs repeatedly, each round as a separate run."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from pushforward.cli.options import check_positive, check_whole, parse
from pushforward.cli.run import check_folder, described_run, device_of, load_data, notify, run_config, write_config
from pushforward.cli.starting import finish
from pushforward.data.pairs import Pairs
from pushforward.errors import UserError
from pushforward.evaluation.straightness import straightness
from pushforward.families.checks import device_of as model_device
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.formats.config import call_checked, to_plain
from pushforward.formats.model import load, model_config
from pushforward.formats.run import check_free, checkpoints, step_of
from pushforward.training.grids import SampleGrid
from pushforward.training.progress import MetricsFile, ProgressBar, read_metrics
from pushforward.training.reflow import reflow
from pushforward.training.settings import Settings
from pushforward.training.state import newest
from pushforward.training.trainer import Trainer

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
        out: run folder of the result; by default derived from the run's name.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        seed: seed of pairs and training.
        device: "auto", "cpu", "cuda", ...
        resume: continue an interrupted run.
        overwrite: replace existing runs.
    """

    run: Annotated[Path, tyro.conf.Positional]
    pairs: int = 20_000
    steps: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    out: Path | None = None
    checkpoint: str = "best"
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_whole(self, {"pairs": 10, "steps": 1, "batch_size": 1, "seed": 0})
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
    check_pairs(options, outs)
    teacher = options.run
    for number, out in enumerate(outs, 1):
        model = path_model(teacher, options)
        status = train_on_pairs(model, model, teacher, out, options, {"reflow": {"of": str(teacher), "round": number}})
        if status:
            return status
        teacher, options = out, dataclasses.replace(options, checkpoint="best")
    return 0


def check_pairs(options: OnPairs, outs: Sequence[Path]) -> PathModel:
    """Raise if the options cannot be followed, before anything is loaded or removed; return the described model of the run.

    Args:
        options: the command's options.
        outs: the run folders to write.

    Raises:
        UserError: an option does not fit the run, or a folder cannot be written.
        CheckpointError: a run to resume has no intact checkpoint.
    """
    device_of(options.device)
    config = run_config(options.run)
    _settings(config, options)
    for out in outs:
        if out.resolve() in (options.run.resolve(), *options.run.resolve().parents):
            raise UserError(f"--out is {out}, the run that the pairs come from; give another folder.")
        if not (options.resume and out.is_dir()):
            check_free(out, options.overwrite)
        elif checkpoints(out).newest_whole() is None:
            newest(out)  # raises
        check_folder(out, f"--out is {out}")
    return _as_path_model(described_run(options.run, options.checkpoint), options.run)


def path_model(folder: Path, options: OnPairs) -> PathModel:
    """Return a run's model, which must be a path model."""
    return _as_path_model(load(folder, checkpoint=options.checkpoint).to(device_of(options.device)), folder)


def _as_path_model(model: GenerativeModel, folder: Path) -> PathModel:
    if not isinstance(model, PathModel):
        raise UserError(f"{folder} holds a {type(model).__name__}, but only path models, such as rectified_flow, have such pairs.")
    return model


def train_on_pairs(teacher: PathModel, student: PathModel, of: Path, out: Path, options: OnPairs, facts: Mapping[str, Any]) -> int:
    """Train a student on its teacher's pairs into a run folder `out`, print the straightness of both, and return the exit status."""
    config = run_config(of)
    section = dict(config.get("data", {}))
    settings = _settings(config, options)
    resume = options.resume and out.is_dir()
    if resume and _done(out, settings):
        return 0
    notify(f"solving {options.pairs} trajectories of {of} ...")
    train = pairs_of(teacher, options.pairs, section, options.seed)
    validation = pairs_of(teacher, max(1, options.pairs // VALIDATION_SHARE), section, options.seed + 1)
    before = straightness(teacher, 1000, _cond(teacher, 1000, section, options.seed), generator=_generator(options.seed))
    whole = {**model_config(student), "data": section, **facts, "training": to_plain(vars(settings))}
    torch.manual_seed(settings.seed)
    trainer = Trainer(
        student, train, validation=validation, out=out, resume=resume, overwrite=options.overwrite, config={"data": section, **facts},
        callbacks=[ProgressBar(), MetricsFile(out / "metrics.jsonl"), SampleGrid(out / "samples")], **vars(settings),
    )  # fmt: skip
    write_config(out, whole)
    trainer.fit()
    status = finish(trainer)
    if status == 0 and "reflow" in facts:
        after = straightness(load(out), 1000, _cond(teacher, 1000, section, options.seed), generator=_generator(options.seed))
        print(f"straightness (0 is a straight line): {before} before, {after} after.")
    return status


def pairs_of(model: PathModel, n: int, section: Mapping[str, Any], seed: int) -> Pairs:
    """Return n pairs of a model, with conditions from its training data."""
    return reflow(model, n, _cond(model, n, section, seed), generator=_generator(seed))


def _cond(model: PathModel, n: int, section: Mapping[str, Any], seed: int) -> Any:
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
    for name in ("steps", "batch_size"):
        if getattr(options, name) is not None:
            own[name] = getattr(options, name)
    return call_checked(Settings, own, "training")


def _done(out: Path, settings: Settings) -> bool:
    """Whether a run folder already contains its last step, and its validation, which a signal may have cut short."""
    last = checkpoints(out).newest_whole()
    validated = {row.get("step") for row in read_metrics(out / "metrics.jsonl") if "validation_loss" in row}
    return last is not None and step_of(last.name) == settings.steps and settings.steps in validated
