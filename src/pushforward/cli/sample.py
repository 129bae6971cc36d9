"""`pushforward sample RUN`: draw samples and write them as pictures, arrays or a table."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from pushforward._memory import check_room
from pushforward.cli.conditions import conditions_of, labels_of
from pushforward.cli.drawing import check_clip, check_drawing, clip_of
from pushforward.cli.guidance import guidance_of
from pushforward.cli.joined import joined
from pushforward.cli.options import check_positive, check_whole, parse
from pushforward.cli.output import result
from pushforward.cli.run import check_file, check_no_data, described_run, device_of
from pushforward.cli.samplers import SamplerOptions, own_sampler
from pushforward.cli.samples import check_form, check_out, write_samples
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.formats.model import at_hand, check_intact, located, with_weights
from pushforward.guidance.guidance import Guidance
from pushforward.samplers.sampler import Sampler
from pushforward.training.leading import lead


@dataclass(frozen=True)
class Sample(SamplerOptions):
    """Draw samples from a run or a saved model.

    Args:
        run: run folder, checkpoint, folder written by pushforward.save, or pipeline folder of diffusers; or OWNER/NAME on the Hub.
        n: number of samples.
        label: the class to draw, its name or its number from 0; by default all classes in turn.
        cond: the conditions of a model of vectors or images, repeated as needed: a .npy file, a .npz file with y, the numbers of one
            vector, or `train`, `validation` or `test` for those of the run's data; of a table's given columns "age=40,sex=female", or a
            .csv or .parquet file with these columns.
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
    with joined() as among:
        with among.agreed("reading the run"):
            options = dataclasses.replace(options, run=at_hand(options.run.as_posix()))
            drawing = _checked(options, among.local_rank)
        lead(among, drawing.loaded, lambda load: _written(options, drawing, load()), "sampling")
    return 0


@dataclass(frozen=True)
class _Drawing:
    """What samples are drawn with, which fits the model.

    Args:
        model: the model without its weights.
        folder: where they are.
        device: where the model is to be.
        cond: the condition of each sample, or None.
        sampler: the sampler, None for the model's own.
        guidance: the guidance, or None.
    """

    model: GenerativeModel
    folder: Path
    device: torch.device
    cond: Tensor | None
    sampler: Sampler | None
    guidance: Guidance | float | None

    def loaded(self) -> GenerativeModel:
        """Return the model with its weights."""
        return with_weights(self.model, self.folder).to(self.device)


def _checked(options: Sample, local_rank: int) -> _Drawing:
    """Return what samples are drawn with, before any weights are read.

    Raises:
        UserError: an option does not fit the model.
    """
    device, folder = device_of(options.device, local_rank), located(options.run, options.checkpoint)
    model = described_run(options.run, options.checkpoint)
    check_out(options.out, model.shape)
    check_no_data(options.out, "--out", options.run)
    check_clip(model, options.clip)
    check_room(f"-n {options.n}", options.n * math.prod(model.shape) * model.dtype.itemsize, "give a smaller -n")
    labels = labels_of(options.label, options.n, model)
    given = conditions_of(options.cond, options.n, model, options.run)
    cond = labels if given is None else given
    sampler, guidance = options.chosen(own_sampler(model)), clip_of(options.clip, guidance_of(options.guidance))
    check_drawing(model, cond, sampler, guidance, options.temperature)
    check_intact(folder)
    return _Drawing(model, folder, device, cond, sampler, guidance)


def _written(options: Sample, drawing: _Drawing, model: GenerativeModel) -> None:
    """Draw the samples, write them and print where they are."""
    cond = drawing.cond
    made = model.sample(
        options.n,
        None if cond is None else cond.to(drawing.device),
        sampler=drawing.sampler,
        guidance=drawing.guidance,
        temperature=options.temperature,
        generator=torch.Generator().manual_seed(options.seed),
        batch_size=options.batch_size,
    )
    write_samples(made, cond, options.out, model)
    result(options.out, out=options.out, n=options.n, shape=model.shape, seed=options.seed)
    print(f"{options.n} samples of shape {model.shape} are in {options.out}.")
