"""The conditions that a command draws samples under: `--label`, or `--cond` for vectors, columns and images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.cli.run import load_data, run_config
from pushforward.column import Column
from pushforward.data.arrays import number_labels
from pushforward.data.frames import columns_of_parquet
from pushforward.data.given_columns import Rows, columns_by_name, encoded_columns, of_text, warn_outside
from pushforward.data.numpy_files import open_npy, opened_npz, read_member
from pushforward.data.raw import Raw, by_title
from pushforward.data.splits import SPLITS
from pushforward.data.tables import cells_of_csv
from pushforward.errors import ConditionError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.registry import unknown
from pushforward.schema import Schema

TABLES = (".csv", ".parquet")
FORMS = "a .npy file of them, a .npz file with y, one vector's numbers with spaces between, or train, validation or test of the run's data"


def labels_of(label: str | None, n: int, model: GenerativeModel, option: str = "label") -> Tensor | None:
    """Return n labels of one class, by its name or number, or of all classes in turn, or None for a model without classes.

    Args:
        label: what was given as --label, or another `option`.
        n: number of labels.
        model: the model, whose weights are not needed.
        option: the name of the option, for errors.

    Raises:
        UserError: there is no such class.
    """
    if label is None:
        return None if model.classes is None else torch.arange(n) % model.classes
    if model.classes is None:
        raise UserError(f"--{option} is {label}, but this model was trained without classes; leave it out.")
    schema = model.schema
    if schema is None or schema.label is None:
        schema = Schema(label=Column("label", "category", words=tuple(range(model.classes))))
    try:
        return torch.full((n,), schema.label_of(label))
    except UserError as error:
        raise UserError(f"--{str(error).replace('label', option, 1)}") from None


def conditions_of(given: Sequence[str], n: int, model: GenerativeModel, run: Path) -> Tensor | None:
    """Return n vectors or images as conditions: those of a file or of the run's data, repeated as needed, or None for a model without.

    Where they are columns of a table, these may be given by their names.

    Args:
        given: the words of --cond.
        n: number of samples.
        model: the model, whose weights are not needed.
        run: its run folder.

    Raises:
        UserError: the model reads no such conditions, or needs some, or they have another shape.
        DataError: a column is missing, or a cell is none of its values.
    """
    shape, schema = model.conditioning.shape, model.schema or Schema()
    if shape is None:
        if given:
            what = "classes; choose one with --label" if model.classes is not None else "conditions; leave it out"
            raise UserError(f"--cond is {' '.join(given)}, but this model was trained on {'no ' * (model.classes is None)}{what}.")
        return None
    if not given:
        if model.drop_cond:
            return None
        raise UserError(f"--cond is missing: this model needs {model.conditioning.rows(n)} as conditions; give {_forms(schema)}.")
    found = _of_columns(given, schema, run) if schema.given else None
    found = _read(given, run, _forms(schema)) if found is None else found
    if found is None or not len(found):
        raise UserError(f"--cond is {' '.join(given)}, which has no conditions; give {_forms(schema)}.")
    cond = found[torch.arange(n) % len(found)].to(model.dtype)
    try:
        model.conditioning.check(cond, n, model.dtype)
    except ConditionError:
        raise UserError(
            f"--cond is {' '.join(given)}, of shape {tuple(found.shape)}, but this model needs {model.conditioning.rows(len(found))}."
        ) from None
    if not bool(cond.isfinite().all()):
        raise UserError(f"--cond is {' '.join(given)}, which holds NaN or infinity; remove them or fill them in.")
    return cond


def _forms(schema: Schema) -> str:
    if not schema.given:
        return FORMS
    example = ",".join(f"{one.title}={one.words[0] if one.words else f'{one.low or 0:g}'}" for one in schema.given)
    return f'"{example}", a .csv or .parquet file with these columns, {FORMS}'


def _of_columns(given: Sequence[str], schema: Schema, run: Path) -> Tensor | None:
    """Return the vectors of columns that are given by name, of a table or as words NAME=VALUE; None if they are not."""
    path = Path(given[0])
    if len(given) == 1 and path.suffix.lower() in TABLES:
        if not path.is_file():
            raise UserError(f"--cond is {path}, but there is no such file; give {_forms(schema)}.")
        if path.suffix.lower() == ".parquet":
            name = f"--cond {path}"
            raws = columns_by_name(name, by_title(name, columns_of_parquet(path)), schema.given)
            return _encoded(name, raws, schema, lambda k: f"row {k} (from 0)")
        delimiter = run_config(run).get("data", {}).get("delimiter", ",")
        cells, lines = cells_of_csv(path, delimiter)
        return _of_cells(f"--cond {path}", cells, schema, lambda k: f" in row {lines[k]}")
    if "=" not in given[0]:
        return None
    stated: dict[str, list[str]] = {}
    for one in given:
        for part in re.split(r",(?=[^,=]*=)", one):  # a comma within a word is no end of it
            title, sign, cell = part.partition("=")
            if not sign or title.strip() not in schema.given_names:
                raise UserError(f"--cond: {unknown('given column', title.strip(), schema.given_names)}")
            if title.strip() in stated:
                raise UserError(
                    f"--cond has {title.strip()} twice; give one value of each column, or a .csv file with a row for each sample."
                )
            stated[title.strip()] = [cell]
    return _of_cells("--cond", stated, schema, lambda k: "")


def _of_cells(name: str, cells: Mapping[str, Sequence[str]], schema: Schema, where: Any) -> Tensor:
    for title in schema.given_names:
        if title not in cells:
            raise UserError(f"{name} has no {title!r}, but samples are conditional on {', '.join(schema.given_names)}; give all of them.")
    raws = [of_text(name, one, cells[one.title], where) for one in schema.given]
    return _encoded(name, raws, schema, lambda k: where(k))


def _encoded(name: str, raws: Sequence[Raw], schema: Schema, row: Rows) -> Tensor:
    vectors = encoded_columns(name, raws, schema.given, row)
    warn_outside(name, raws, schema.given)
    return torch.from_numpy(vectors)


def _read(given: Sequence[str], run: Path, forms: str) -> Tensor | None:
    path = Path(given[0])
    if len(given) == 1 and path.suffix in (".npy", ".npz") and not path.is_file():
        raise UserError(f"--cond is {path}, but there is no such file; give {forms}.")
    if len(given) == 1 and given[0] in SPLITS:
        return load_data(run_config(run).get("data", {}), given[0]).cond
    if len(given) == 1 and path.suffix == ".npy":
        return number_labels(path.name, open_npy(path))[0]
    if len(given) == 1 and path.suffix == ".npz":
        with opened_npz(path) as archive:
            return number_labels(path.name, read_member(path, archive, "y"))[0] if "y" in archive else None
    try:
        return torch.tensor([[float(one) for one in given]])
    except ValueError:
        raise UserError(f"--cond is {' '.join(given)}, but it must be {forms}.") from None
