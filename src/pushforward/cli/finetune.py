"""`pushforward finetune MODEL --data FOLDER`: fine-tune a Stable Diffusion 3 on images with captions, by a LoRA or all weights."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pushforward.cli.configuration import base_config, refuse_changes
from pushforward.cli.output import result as stated
from pushforward.cli.rehearse import rehearse
from pushforward.cli.run import load_data, write_config
from pushforward.cli.starting import begin, report
from pushforward.cli.text_images import before_training, checked_captions, few_of, of_images, prepare_folder
from pushforward.cli.train import Source, opened, watching
from pushforward.cli.tuned import Base, loaded, next_command, written
from pushforward.cli.tuning import asked, check_apart, plain_of, run_of
from pushforward.data.dataset import Dataset
from pushforward.data.prior import PriorPreservation
from pushforward.errors import UserError
from pushforward.formats.autoencoder_folder import read_autoencoder_of
from pushforward.formats.config import to_plain
from pushforward.formats.packages import stamped
from pushforward.formats.run import FINETUNE
from pushforward.sd3.run_files import VAE
from pushforward.training.grids import CaptionGrid
from pushforward.training.processes import processes
from pushforward.training.settings import Settings

SIZE = 1024  # pixels of a side, of models that are no runs


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    given = list(arguments)
    config = base_config(given) if "--resume" in given else {}
    parsed = asked(given, config)
    tuning, settings = parsed.tuning, parsed.training
    size = str(_size(tuning))
    options = parsed.run if config else of_images(parsed.run, size=size)
    source = opened("finetune", options, settings, {"data": config["data"]} if config else {}, few=True)
    check_apart(source.out, tuning)
    if not tuning.caption:
        checked_captions(source.train, ", one --caption for all")
    prior = None if tuning.prior is None else _prior(tuning, size)
    if prior is not None and source.train.groups is not None:
        raise UserError(f"--prior is {tuning.prior}, but images in buckets are not mixed with others in a batch; leave out one of them.")
    sections = {"data": source.section, FINETUNE: plain_of(tuning)}
    if config:
        refuse_changes(config, {**config, **sections}, source.out)
    base = loaded(tuning, source)
    if options.dry_run:
        return _rehearse(base, source, settings, options.overwrite)
    if not (config or source.resume or source.launched):
        whole, among = stamped({**sections, "training": to_plain(vars(settings))}), processes(settings.timeout)
        among.of_main(lambda: _prepared(source.out, whole, options.overwrite, among.launch), "writing the configuration")
    train, validation = base.pairs(source.train, "train"), base.pairs(source.validation, "validation")
    data: Any = train
    if prior is not None:
        data = PriorPreservation(train, base.pairs(prior, "train", of_prior=True), tuning.prior_weight)
    model = base.model(validation.shape, settings.seed)
    trainer = begin(
        "full fine-tuning" if tuning.full else "a LoRA", model, settings, data, validation, source.out, {**sections, **base.sections},
        device=source.device, resume=(source.out / "checkpoints").is_dir(),
        callbacks=[CaptionGrid(source.out / "samples", base.images), *watching(options, source.out)],
    )  # fmt: skip
    trainer.fit()
    status = report(trainer)
    if status == 0 and trainer.processes.main:
        made, caption = written(base, trainer), (validation.captions or ("",))[0]
        stated(made, result=made)
        print(f"{made} is written; next: {next_command(base, made, caption)}")
    return status


def _rehearse(base: Base, source: Source, settings: Settings, overwrite: bool) -> int:
    """Print what the run would take, from a few images that are encoded into a temporary folder."""
    few = few_of(source, settings.batch_size)
    with tempfile.TemporaryDirectory(prefix="pushforward-") as folder:
        apart = replace(base, source=replace(few, out=Path(folder)), tuning=replace(base.tuning, cache=None))
        began = time.perf_counter()
        train, validation = apart.pairs(few.train, "train"), apart.pairs(few.validation, "validation")
        before = before_training(source, few, time.perf_counter() - began)
        model = base.model(validation.shape, settings.seed).to(source.device)
        name = "full fine-tuning" if base.tuning.full else "a LoRA"
        return rehearse(name, model, settings, source, overwrite, train=train, before=before)


def _prepared(out: Path, config: dict[str, Any], overwrite: bool, launch: str) -> None:
    """Write the configuration into a folder without a former run, so that even the encoding of its data can be resumed."""
    prepare_folder(out, overwrite, launch)
    write_config(out, config)


def _size(tuning: Any) -> int:
    """Return the side of the images in pixels.

    Raises:
        UserError: the one that is given is not the run's, all of whose weights are trained at its own.
    """
    flow = run_of(tuning.model)
    if flow is None:
        return SIZE if tuning.size is None else tuning.size
    vae = read_autoencoder_of(Path(tuning.model).expanduser() / VAE)
    own = flow.shape[1] * vae.factor
    if tuning.size is not None and tuning.size != own:
        raise UserError(f"--size is {tuning.size}, but {tuning.model} is a run on images of {own} pixels; leave --size out.")
    return own


def _prior(tuning: Any, size: str) -> Dataset:
    """Return the images of the subject's class."""
    options = {"size": int(size), "missing": "drop"}
    found = load_data({"name": str(tuning.prior), **options}, "train")
    if not tuning.prior_caption:
        checked_captions(found, ", one --prior-caption for all")
    return found
