"""`pushforward train sd3 --data emoji`: an autoencoder, latents and captions encoded once, and the flow between noise and latents."""

import functools
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pushforward import registry
from pushforward.cli.rehearse import rehearse
from pushforward.cli.starting import built, report, start
from pushforward.cli.text_images import Encoded, Texts, before_training, checked_captions, encoded, few_of, of_images
from pushforward.cli.train import TEXT_TO_IMAGE, Run, Source, arguments_of, asked, opened, parsed_options, watching
from pushforward.families.autoencoder import Autoencoder
from pushforward.formats.config import call_checked, to_plain
from pushforward.training.grids import CaptionGrid
from pushforward.training.processes import processes
from pushforward.training.settings import Settings

FLOW = Settings(steps=5000, batch_size=64, lr=5e-4, patience=0)
AUTOENCODER = Settings(batch_size=8, lr=2e-3, ema=0.99, patience=0, channels_last=True)
LATENTS = {"latent_channels": 8, "widths": (16, 32, 64)}  # small, as the whole run is
VALIDATIONS = 5  # of the autoencoder: each decodes eight draws of every image


def train(given: Sequence[str], config: Mapping[str, Any]) -> int:
    """Run the command and return its exit status."""
    texts = call_checked(Texts, config.get("texts", {}), "texts")
    parsed = asked(TEXT_TO_IMAGE, given, config or {"training": to_plain(vars(FLOW))}, {}, texts=texts)
    with torch.device("meta"):  # the network is refused before the autoencoder is trained
        patch = getattr(registry.get(f"models.{TEXT_TO_IMAGE}")(**arguments_of(parsed)).net, "patch", 1)  # 1: a network of another package
    options: Run = parsed.run if config else of_images(parsed.run)
    source = opened(TEXT_TO_IMAGE, options, parsed.training, config)
    checked_captions(source.train)
    if options.dry_run:
        return _rehearse(parsed, source, patch)
    ready = encoded(
        parsed.texts, parsed.model.null_text, source, patch=patch, among=processes(parsed.training.timeout), overwrite=options.overwrite,
        resume=source.resume, trained=lambda folder: _autoencoder(folder, source, parsed.texts.autoencoder_steps, parsed.training.seed),
    )  # fmt: skip
    if isinstance(ready, int):
        return ready
    arguments = {**arguments_of(parsed), "text": ready.texts.layout.parts}
    trainer = start(
        TEXT_TO_IMAGE, arguments, parsed.training, ready.train, ready.validation, source.out,
        section=source.section, device=source.device, resume=source.resume, grids=False,
        callbacks=[CaptionGrid(source.out / "samples", ready.images), *watching(options, source.out)],
        sections={"texts": to_plain(vars(parsed.texts))}, prepare=lambda model: _set_empty(model, ready),
    )  # fmt: skip
    trainer.fit()
    status = report(trainer)
    if status == 0 and trainer.processes.main:
        run, prompt = shlex.quote(str(source.out)), shlex.quote(ready.caption)  # a caption may hold what a shell runs
        print(f"next: pushforward generate {run} {prompt} --guidance 3 --out image.png")
    return status


def _rehearse(parsed: Any, source: Source, patch: int) -> int:
    """Print what the training of the flow would take, from a few images that are encoded into a temporary folder."""
    few = few_of(source, parsed.training.batch_size)
    with tempfile.TemporaryDirectory(prefix="pushforward-") as folder:
        apart = replace(few, out=Path(folder), resume=False, launched=False)
        began = time.perf_counter()
        ready = encoded(
            parsed.texts, parsed.model.null_text, apart, patch=patch, among=processes(parsed.training.timeout), overwrite=False,
            resume=False, trained=lambda place: _untrained(apart, parsed.training.seed),
        )  # fmt: skip
        assert not isinstance(ready, int)
        arguments = {**arguments_of(parsed), "text": ready.texts.layout.parts}
        prepare = functools.partial(_set_empty, ready=ready)
        model = built(TEXT_TO_IMAGE, arguments, parsed.training, ready.train, prepare).to(source.device)
        before = before_training(source, few, time.perf_counter() - began)
        if parsed.texts.autoencoder is None:
            steps = f"training an autoencoder for {parsed.texts.autoencoder_steps:,} steps (--dry-run of autoencoder_kl measures them), "
            before = replace(before, what=steps + before.what, seconds=None)
        return rehearse(TEXT_TO_IMAGE, model, parsed.training, source, parsed.run.overwrite, train=ready.train, before=before)


def _untrained(source: Source, seed: int) -> Autoencoder:
    """Return the autoencoder that would be trained."""
    settings = replace(AUTOENCODER, seed=seed)
    parsed = parsed_options("autoencoder_kl", [], Run(data=source.section["name"]), settings, LATENTS)
    model = built("autoencoder_kl", arguments_of(parsed), settings, source.train)
    assert isinstance(model, Autoencoder)
    return model


def _set_empty(model: Any, ready: Encoded) -> None:
    if model.null_text == "empty":
        model.set_empty(ready.texts.empty(1))


def _autoencoder(folder: Path, source: Source, steps: int, seed: int) -> Autoencoder | int:
    """Return the autoencoder that is trained in a folder, where its training is continued if it was interrupted, or an exit status."""
    settings = replace(AUTOENCODER, steps=steps, seed=seed, validate_every=max(1, steps // VALIDATIONS))
    parsed = parsed_options("autoencoder_kl", [], Run(data=source.section["name"]), settings, LATENTS)
    trainer = start(
        "autoencoder_kl", arguments_of(parsed), settings, source.train, source.validation, folder,
        section=source.section, device=source.device, resume=(folder / "checkpoints").is_dir(),
    )  # fmt: skip
    trainer.fit()
    status = report(trainer)
    if status:
        return status
    model = trainer.best_model
    assert isinstance(model, Autoencoder)
    return model
