"""The conditions that a command draws samples under: `--label`, or `--cond` for vectors and images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pushforward.cli.run import load_data, run_config
from pushforward.data.arrays import number_labels
from pushforward.data.numpy_files import open_npy, opened_npz, read_member
from pushforward.data.splits import SPLITS
from pushforward.errors import ConditionError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.schema import Column, Schema

FORMS = "a .npy file of them, a .npz file with y, the numbers of one vector, or train, validation or test for those of the run's data"


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

    Args:
        given: the words of --cond.
        n: number of samples.
        model: the model, whose weights are not needed.
        run: its run folder.

    Raises:
        UserError: the model reads no such conditions, or needs some, or they have another shape.
    """
    shape = model.conditioning.shape
    if shape is None:
        if given:
            what = "classes; choose one with --label" if model.classes is not None else "conditions; leave it out"
            raise UserError(f"--cond is {' '.join(given)}, but this model was trained on {'no ' * (model.classes is None)}{what}.")
        return None
    if not given:
        if model.drop_cond:
            return None
        raise UserError(f"--cond is missing: this model needs {model.conditioning.rows(n)} as conditions; give {FORMS}.")
    found = _read(given, run)
    if found is None or not len(found):
        raise UserError(f"--cond is {' '.join(given)}, which has no conditions; give {FORMS}.")
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


def _read(given: Sequence[str], run: Path) -> Tensor | None:
    path = Path(given[0])
    if len(given) == 1 and path.suffix in (".npy", ".npz") and not path.is_file():
        raise UserError(f"--cond is {path}, but there is no such file; give {FORMS}.")
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
        raise UserError(f"--cond is {' '.join(given)}, but it must be {FORMS}.") from None
