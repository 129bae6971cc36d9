"""`pushforward sample RUN`: draw samples and write them as pictures, arrays or a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from pushforward.cli.options import parse
from pushforward.cli.run import device_of, sampler_of
from pushforward.cli.samples import check_out, write_samples
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.formats.model import load
from pushforward.schema import Column, Schema


@dataclass(frozen=True)
class Sample:
    """Draw samples from a run or a saved model.

    Args:
        run: run folder, checkpoint, or folder written by pushforward.save.
        n: number of samples.
        sampler: euler, midpoint, heun, rk4 or dopri5 (`pushforward list samplers`); by default the model's own.
        steps: steps of a fixed-step sampler; Euler if --sampler is not given.
        label: the class to draw, its name or its number from 0; by default all classes in turn.
        guidance: scale of classifier-free guidance; 1 disables it. The model must have been trained with --drop-cond.
        temperature: factor on the noise's standard deviation.
        out: .csv or .parquet (a table with the names and words of the data), .png (a grid of images with one class a column, or a scatter
            of points), .npy (n, *shape), .npz with x and labels y, or a new folder for one PNG per image.
        seed: seed of the noise.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        batch_size: samples per batch.
        device: "auto", "cpu", "cuda", ...
    """

    run: Annotated[Path, tyro.conf.Positional]
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 100
    sampler: str | None = None
    steps: int | None = None
    label: str | None = None
    guidance: float | None = None
    temperature: float = 1.0
    out: Path = Path("samples.png")
    seed: int = 0
    checkpoint: str = "best"
    batch_size: int = 1024
    device: str = "auto"


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(Sample, arguments, prog="pushforward sample", description="Draw samples from a run or a saved model.")
    if options.n < 1:
        raise UserError(f"-n is {options.n}, but it must be at least 1.")
    model = load(options.run, checkpoint=options.checkpoint).to(device_of(options.device))
    check_out(options.out, model.shape)
    labels = _labels(options, model)
    made = model.sample(
        options.n,
        labels,
        sampler=sampler_of(options.sampler, options.steps),
        guidance=options.guidance,
        temperature=options.temperature,
        generator=torch.Generator().manual_seed(options.seed),
        batch_size=options.batch_size,
    )
    write_samples(made, labels, options.out, model)
    print(f"{options.n} samples of shape {model.shape} are in {options.out}.")
    return 0


def _labels(options: Sample, model: GenerativeModel) -> torch.Tensor | None:
    device = next(model.parameters()).device
    if options.label is None:
        return None if model.classes is None else torch.arange(options.n, device=device) % model.classes
    if model.classes is None:
        raise UserError(f"--label is {options.label}, but this model was trained without classes; leave it out.")
    schema = model.schema
    if schema is None or schema.label is None:
        schema = Schema(label=Column("label", "category", words=tuple(range(model.classes))))
    try:
        return torch.full((options.n,), schema.label_of(options.label), device=device)
    except UserError as error:
        raise UserError(f"--{error}") from None
