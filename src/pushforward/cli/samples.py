"""Write samples as data: a grid, arrays, tables, or a folder with one image each, in the units and words of the data."""

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
from torch import Tensor

from pushforward._pandas import pandas_for
from pushforward.errors import UserError
from pushforward.evaluation.pictures import greys, picture_of
from pushforward.evaluation.quantise import quantise
from pushforward.evaluation.run_pictures import picture_of_rows
from pushforward.families.model import GenerativeModel
from pushforward.formats.files import write_atomically, write_folder
from pushforward.schema import Schema, frame_of

FORMS = ".png, .npy, .npz, .csv, .parquet, or a folder (a name without a suffix) for one PNG each"


def check_form(out: Path) -> None:
    """Raise if the suffix of `out` is not one that samples are written to, a package for it is missing, or the folder is in use.

    Raises:
        UserError: with the forms that there are.
    """
    if out.suffix.lower() not in WRITERS:
        raise UserError(f"--out is {out}, but samples are written to {FORMS}.")
    if out.suffix.lower() == ".parquet":
        pandas_for(f"--out {out}", parquet=True)
    if not out.suffix and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out is {out}, which exists already; give the name of a new folder.")


def check_out(out: Path, shape: tuple[int, ...]) -> None:
    """Raise if samples of this shape cannot be written to `out`, whose form `check_form` has accepted.

    Raises:
        UserError: a table is asked of images, or images of vectors.
    """
    image = len(shape) == 3
    if out.suffix.lower() in (".csv", ".parquet") and len(shape) != 1:
        raise UserError(f"--out is {out}, but events of shape {shape} are no rows of a table; use .npz, or a folder for PNGs.")
    if not out.suffix and not (image and shape[0] in (1, 3)):
        raise UserError(f"--out is {out}, a folder of PNGs, but events of shape {shape} are no images; use .csv, .npz or .npy.")


def write_samples(made: Tensor, cond: Tensor | None, out: Path, model: GenerativeModel) -> None:
    """Write samples (n, *shape) of a model, which `check_out` has accepted, with their classes (n,) or given columns, if any.

    A .npz file has all conditions.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    x = quantise(made.cpu(), model.levels)
    if model.schema is not None and model.schema.columns:
        x = model.schema.rounded(x)
    tabular = model.schema is not None and bool(model.schema.given) and out.suffix.lower() in (".csv", ".parquet")
    kept = cond is not None and (cond.ndim == 1 or tabular or out.suffix.lower() == ".npz")
    WRITERS[out.suffix.lower()](x, cond.cpu() if cond is not None and kept else None, out, model)


def _write_picture(x: Tensor, labels: Tensor | None, out: Path, model: GenerativeModel) -> None:
    """Write a grid of images, a scatter plot of points, or the pairs of a table's columns."""
    marked = model.schema is not None and any(column.kind == "missing" for column in model.schema.columns)
    if x.ndim == 2 and (x.shape[1] != 2 or marked):
        picture_of_rows(x, model.schema, model.levels, out)
        return
    by_class = labels is not None and len(labels.unique()) > 1  # in turn: one class a column
    columns = min(len(x), model.classes or 10) if by_class else 10
    picture_of(x, out, labels=labels, levels=model.levels, columns=columns)


def _write_npy(x: Tensor, labels: Tensor | None, out: Path, model: GenerativeModel) -> None:
    _save(out, lambda file: numpy.save(file, _array(x, model)))


def _write_npz(x: Tensor, labels: Tensor | None, out: Path, model: GenerativeModel) -> None:
    arrays: dict[str, Any] = {"x": _array(x, model)}
    if labels is not None:
        arrays["y"] = labels.numpy()
    if isinstance(model.levels, int):
        arrays["levels"] = numpy.array(model.levels)
    schema = model.schema or Schema()
    if schema.class_names is not None and labels is not None and labels.ndim == 1:
        arrays["class_names"] = numpy.array(schema.class_names)
    if schema.columns:
        arrays["columns"] = numpy.array(schema.names)
    arrays |= {f"words of {name}": numpy.array([str(word) for word in words]) for name, words in schema.categories.items()}
    if schema.given and labels is not None:  # y is encoded, as --cond reads it; these are the columns themselves
        given = schema.given_values(labels).items()
        arrays |= {f"given {name}": numpy.array([str(one) for one in v]) if v.dtype == object else v for name, v in given}
    _save(out, lambda file: numpy.savez(file, allow_pickle=False, **arrays))


def _write_csv(x: Tensor, labels: Tensor | None, out: Path, model: GenerativeModel) -> None:
    table = table_of(x, labels, model)

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*map(_cells, table.values()), strict=True))

    write_atomically(out, write)


def _write_parquet(x: Tensor, labels: Tensor | None, out: Path, model: GenerativeModel) -> None:
    frame = frame_of(table_of(x, labels, model), (model.schema or Schema()).columns)
    write_atomically(out, lambda temporary: frame.to_parquet(temporary, index=False))


def _write_folder(x: Tensor, labels: Tensor | None, out: Path, model: GenerativeModel) -> None:
    """Write one PNG each, classes in sub-folders, as `data.load` reads them."""
    names = None if labels is None else (model.schema or Schema()).class_names or tuple(str(one) for one in range(model.classes or 0))
    pixels = (greys(x, model.levels) * 255).round().byte().movedim(1, -1).numpy()
    digits = max(5, int(math.log10(len(x))) + 1)

    def fill(folder: Path) -> None:
        for k in range(len(x)):
            inside = folder if names is None or labels is None else folder / _as_folder(names[int(labels[k])])
            inside.mkdir(exist_ok=True)
            PIL.Image.fromarray(pixels[k] if x.shape[1] == 3 else pixels[k, ..., 0]).save(inside / f"{k:0{digits}d}.png")

    if out.is_dir():
        out.rmdir()  # empty: see `check_out`
    write_folder(out, fill, manifest=False)


def _as_folder(name: str) -> str:
    """Return a class's name as that of a folder, which has no separators and is not hidden."""
    return name.replace("/", "_").replace("\0", "_").replace("\\", "_").lstrip(".") or "_"


def table_of(x: Tensor, labels: Tensor | None, model: GenerativeModel) -> Mapping[str, numpy.ndarray]:
    """Return samples (n, features) as columns by name; a model that knows no names calls them x0, x1, ... and label."""
    schema = model.schema or Schema()
    if schema.columns:
        table = dict(schema.table(x, labels))
    else:
        table = {f"x{k}": column.numpy() for k, column in enumerate(x.T)}
        if labels is not None and schema.label is not None:
            table[schema.label.title] = schema.label.values(labels.numpy())
    if labels is not None and schema.label is None and not schema.given:
        table["label"] = labels.numpy()
    return table


def _cells(column: numpy.ndarray) -> list[str]:
    """Return values as text: real numbers with the digits of float32, missing values empty."""
    if column.dtype.kind == "f":
        return ["" if numpy.isnan(value) else str(value) for value in column.astype(numpy.float32)]
    return ["" if value is None else str(value) for value in column]


def _array(x: Tensor, model: GenerativeModel) -> numpy.ndarray:
    """Return samples as an array: images of 256 levels as uint8, which `data.load` reads as images of 256 levels again."""
    return x.numpy().astype(numpy.uint8) if x.ndim == 4 and model.levels == 256 else x.numpy()


def _save(out: Path, save: Callable[[Any], None]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            save(file)

    write_atomically(out, write)


WRITERS: dict[str, Callable[[Tensor, Tensor | None, Path, GenerativeModel], None]] = {
    ".png": _write_picture,
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    "": _write_folder,
}
