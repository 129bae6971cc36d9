"""`pushforward edit RUN --source CLASS --target CLASS`: edit examples of one class into another, and write them as samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from pushforward.cli.conditions import labels_of
from pushforward.cli.options import check_whole, named, parse
from pushforward.cli.output import result
from pushforward.cli.records import fields_of, values_of
from pushforward.cli.run import check_file, check_no_data, described_run, device_of, load_data, run_config
from pushforward.cli.samples import check_form, check_out, write_samples
from pushforward.data.given import as_dataset
from pushforward.data.numpy_files import open_npy, opened_npz, read_member
from pushforward.data.splits import SPLITS
from pushforward.editing.method import Method
from pushforward.errors import UserError
from pushforward.evaluation.judge import HELD
from pushforward.evaluation.pictures import picture_of
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.formats.model import check_intact, located, with_weights

SCALES = {"flow-edit": (1.5, 5.5), "rf-inversion": (1.0, 3.0)}  # of a model trained with --drop-cond


@dataclass(frozen=True)
class Edit:
    """Edit examples of one class into another, without training.

    Args:
        run: run folder, checkpoint, or folder written by pushforward.save, of a model on a path with classes.
        source: the class of the examples, its name or its number from 0.
        target: the class that they shall have.
        data: `test`, `validation` or `train` for examples of the source class from the run's data; or a .npy file of examples (n, *shape),
            or a .npz file with x, in the units of the data.
        n: number of examples, the first ones.
        method: flow-edit, or rf-inversion.
        guidance: scales of classifier-free guidance of source and target; by default 1.5 5.5 for flow-edit and 1 3 for rf-inversion, if the
            model was trained with --drop-cond, else none.
        steps: steps of the method.
        method_options: other options of the method as NAME VALUE pairs, such as `n_max 40`, or `eta 0.5 gamma 0.3`.
            `pushforward list editing.flow-edit` explains those of flow-edit.
        out: .png (a grid, of images with each result below its source), .npy, .npz, .csv, .parquet, or a new folder for one PNG per image.
        seed: seed of the noise.
        checkpoint: "best" on validation, "last", or a name such as step-000500.
        batch_size: examples per batch.
        device: "auto", "cpu", "cuda", ...
    """

    run: Annotated[Path, tyro.conf.Positional]
    source: str
    target: str
    data: str = "test"
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10
    method: Literal["flow-edit", "rf-inversion"] = "flow-edit"
    guidance: tuple[float, float] | None = None
    steps: int | None = None
    method_options: dict[str, str] = field(default_factory=dict)
    out: Path = Path("edited.png")
    seed: int = 0
    checkpoint: str = "best"
    batch_size: int = 1024
    device: str = "auto"

    def __post_init__(self) -> None:
        check_whole(self, {"n": 1, "steps": 1, "batch_size": 1, "seed": 0})
        self.chosen(True)
        check_form(self.out)
        check_file(self.out, "--out")

    def chosen(self, guided: bool) -> Method:
        """Return the method, by default guided if the model can be."""
        kind = named("editing", self.method)
        options = {name: hint for name, hint in fields_of(kind).items() if name not in ("source_guidance", "target_guidance", "grid")}
        values = values_of(options, self.method_options.items(), f"option of {self.method}")
        if self.steps is not None:
            values["steps"] = self.steps
        scales: tuple[Any, Any] = self.guidance or (SCALES[self.method] if guided else (None, None))
        made: Method = kind(*scales, **values)
        return made


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    options = parse(Edit, arguments, prog="pushforward edit", description="Edit examples of one class into another, without training.")
    device, folder = device_of(options.device), located(options.run, options.checkpoint)
    model = described_run(options.run, options.checkpoint)
    method = options.chosen(bool(model.drop_cond))
    method.check_model(model)
    source, target = (labels_of(label, 1, model, name) for name, label in (("source", options.source), ("target", options.target)))
    check_out(options.out, model.shape)
    check_no_data(options.out, "--out", options.run)
    assert source is not None
    assert target is not None
    x = _events(options, model, int(source))
    check_intact(folder)
    loaded = with_weights(model, folder).to(device)
    assert isinstance(loaded, PathModel)
    made = method(
        loaded,
        x.to(device),
        source.to(device),
        target.to(device),
        generator=torch.Generator().manual_seed(options.seed),
        batch_size=options.batch_size,
    ).cpu()
    if options.out.suffix.lower() == ".png" and x.ndim == 4:
        line = torch.maximum(x.amax(), made.amax()).expand_as(x[:, :, :1])  # white, as the gaps between images
        picture_of(torch.cat((x, line, made), dim=2), options.out, levels=model.levels, columns=min(10, len(x)))
    else:
        write_samples(made, target.expand(len(x)), options.out, model)
    result(options.out, out=options.out, n=len(x), source=options.source, target=options.target)
    print(f"{len(x)} examples, edited from {options.source} to {options.target}, are in {options.out}.")
    return 0


def _events(options: Edit, model: GenerativeModel, source: int) -> Tensor:
    """Return the events (n, *shape) that are to be edited."""
    path = Path(options.data)
    if options.data in SPLITS:
        data = load_data(run_config(options.run).get("data", {}), options.data).in_memory(HELD)
        found = data.x if data.cond is None else data.x[data.cond == source]
        if not len(found):
            raise UserError(f"--data is {options.data}, which has no examples of class {options.source}; give another split or a file.")
        return found[: options.n].to(model.dtype)
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        raise UserError(
            f"--data is {options.data}, but it is {', '.join(SPLITS)} for the run's data, or an existing .npy or .npz file of examples."
        )
    if path.suffix == ".npy":
        array = open_npy(path)
    else:
        with opened_npz(path) as archive:
            if "x" not in archive:
                raise UserError(f"--data is {path}, which has no array x; save one with numpy.savez(path, x=...).")
            array = read_member(path, archive, "x")
    x = as_dataset(array[: options.n], path.name, levels=model.levels).x
    if tuple(x.shape[1:]) != model.shape:
        raise UserError(
            f"--data is {path}, whose examples have shape {tuple(x.shape[1:])}, but this model was trained on {model.shape}; "
            "give examples of that shape."
        )
    return x.to(model.dtype)
