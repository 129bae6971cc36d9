"""Read what other libraries call a data set: arrays, map-style sets of torch, and loaders around them."""

import numbers
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils import data as torch_data

from pushforward._checks import shown
from pushforward.errors import DataError, UserError

ACCEPTED = "a DataFrame, a tensor or array (N, *shape), or a map-style set of x or (x, label)"


def of_loader(data: Any) -> Any:
    """Return the set that a DataLoader reads from, and anything else as it is: batches are made by what trains or evaluates."""
    return data.dataset if isinstance(data, torch_data.DataLoader) else data


def is_map_style(data: Any) -> bool:
    """Return whether a value is a set of examples with numbers from 0: of torch, or any other with a length."""
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or isinstance(data, str | bytes | dict):
        return False
    try:
        return len(data) >= 0
    except TypeError:  # a sparse array of scipy, a tensor without dimensions
        return False


def gathered(name: str, data: Any) -> tuple[Tensor, Tensor | None]:
    """Return all examples of a map-style set as x (N, *shape) and their labels (N,), None if it has none.

    Args:
        name: what messages call it.
        data: a set whose examples are x, (x,) or (x, label), with x and label tensors, arrays or numbers.

    Raises:
        UserError: it is no such set.
        DataError: it is empty, or its examples differ in shape or are of another form.
    """
    data = of_loader(data)
    if not is_map_style(data):
        raise UserError(f"{name} is {shown(data)}, but it must be {ACCEPTED}.")
    if len(data) == 0:
        raise DataError(f"{name} is empty; give at least one example.")
    if isinstance(data, torch_data.TensorDataset) and len(data.tensors) <= 2:
        return data.tensors[0], data.tensors[1] if len(data.tensors) == 2 else None
    rows = [_parts(data[k]) for k in range(len(data))]
    if {len(row) for row in rows} not in ({1}, {2}):
        raise DataError(f"{name}[0] has {len(rows[0])} parts, but an example is x, or (x, label) in all rows; convert them.")
    x = _stacked(name, "x", [row[0] for row in rows])
    return x, None if len(rows[0]) == 1 or rows[0][1] is None else _stacked(name, "label", [row[1] for row in rows])


def _parts(row: Any) -> tuple[Any, ...]:
    """Return the parts of an example; a list of numbers is an x."""
    if isinstance(row, tuple):
        return row
    return (row,) if not isinstance(row, list) or all(isinstance(one, numbers.Number) for one in row) else tuple(row)


def _stacked(name: str, what: str, parts: list[Any]) -> Tensor:
    try:
        tensors = [part if isinstance(part, Tensor) else torch.as_tensor(numpy.asarray(part)) for part in parts]
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{name}: the {what} of an example is {shown(parts[0])}, but it must hold numbers; convert it first.") from None
    shape = tensors[0].shape
    wrong = next((k for k, one in enumerate(tensors) if one.shape != shape), None)
    if wrong is not None:
        raise DataError(
            f"{name}: the {what} of example {wrong} has shape {tuple(tensors[wrong].shape)}, but that of example 0 has {tuple(shape)}; "
            "crop or pad them to one shape."
        )
    return torch.stack(tensors)
