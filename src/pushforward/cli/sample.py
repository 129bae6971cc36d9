"""`pushforward sample RUN`: draw samples and write them as pictures, arrays or a table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from pushforward._memory import check_room
from pushforward.cli.conditions import conditions_of, labels_of
from pushforward.cli.drawing import check_clip, check_drawing, clip_of
from pushforward.cli.guidance import guidance_of
from pushforward.cli.options import check_positive, check_whole, parse
from pushforward.cli.run import check_file, check_no_data, described_run, device_of
from pushforward.cli.samplers import SamplerOptions
from pushforward.cli.samples import check_form, check_out, write_samples
from pushforward.errors import UserError
from pushforward.formats.model import check_intact, located, with_weights


@dataclass(frozen=True)
class Sample(SamplerOptions):
    """Draw samples from a run or a saved model.

    Args:
        run: run folder, checkpoint, folder written by pushforward.save, or pipeline folder of diffusers.
        n: number of samples.
        label: the class to draw, its name or its number from 0; by default all classes in turn.
        cond: the conditions of a model of vectors or images, repeated as needed: a .npy file, a .npz file with y, the numbers of one
            vector, or `train`, `validation` or `test` for those of the run's data.
        guidance: scale of classifier-free guidance; 1 disables it. The model must have been trained with --drop-cond. Or a name, its scale
            and its options: `apg 4 norm 2`, `cfg-zero-star 3 zero 0.03`, `cfg-plus-plus 0.6` (`pushforward list guidance`).
        clip: keep the predicted data in a range, in the model's units (of `preprocess`): HIGH for -HIGH to HIGH, LOW HIGH, or `dynamic` for
            thresholding by a quantile, from -1 to 1 unless numbers come before it; `--clip -3 3 dynamic 0.99` states all.
        temperature: factor on the noise's standard deviation.
        out: .csv or .parquet (a table with the names and words of the data), .png (a grid of images with one class a column, a scatter of
            points, or the pairs of up to 7 columns of a table), .npy (n, *shape), .npz with x and labels or conditions y, or a new folder
            for one PNG per image.
        seed: seed of the noise.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        batch_size: samples per batch.
        device: "auto", "cpu", "cuda", ...
    """

    run: Annotated[Path, tyro.conf.Positional]
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 100
    label: str | None = None
    cond: tuple[str, ...] = ()
    guidance: tuple[str, ...] = ()
    clip: tuple[str, ...] = ()
    temperature: float = 1.0
    out: Path = Path("samples.png")
    seed: int = 0
    checkpoint: str = "best"
    batch_size: int = 1024
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise UserError(f"-n is {self.n}, but it must be at least 1.")
        check_whole(self, {"batch_size": 1, "seed": 0})
        check_positive(self, "temperature")
        clip_of(self.clip, guidance_of(self.guidance))
        check_form(self.out)
        check_file(self.out, "--out")


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(Sample, arguments, prog="pushforward sample", description="Draw samples from a run or a saved model.")
    device, folder = device_of(options.device), located(options.run, options.checkpoint)
    model = described_run(options.run, options.checkpoint)
    check_out(options.out, model.shape)
    check_no_data(options.out, "--out", options.run)
    check_clip(model, options.clip)
    check_room(f"-n {options.n}", options.n * math.prod(model.shape) * model.dtype.itemsize, "give a smaller -n")
    cond = labels_of(options.label, options.n, model)
    cond = conditions_of(options.cond, options.n, model, options.run) if cond is None else cond
    sampler, guidance = options.chosen(model.sampler), clip_of(options.clip, guidance_of(options.guidance))
    check_drawing(model, cond, sampler, guidance, options.temperature)
    check_intact(folder)
    made = (
        with_weights(model, folder)
        .to(device)
        .sample(
            options.n,
            None if cond is None else cond.to(device),
            sampler=sampler,
            guidance=guidance,
            temperature=options.temperature,
            generator=torch.Generator().manual_seed(options.seed),
            batch_size=options.batch_size,
        )
    )
    write_samples(made, cond, options.out, model)
    print(f"{options.n} samples of shape {model.shape} are in {options.out}.")
    return 0
