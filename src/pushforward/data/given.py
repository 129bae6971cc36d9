"""Whatever a user gives as data, as a `Dataset` in memory."""

from typing import Any

import numpy
from torch import Tensor

from pushforward._pandas import is_frame
from pushforward.data.arrays import divided, split_whole
from pushforward.data.checks import as_tensor
from pushforward.data.dataset import Dataset
from pushforward.data.gather import gathered, of_loader
from pushforward.errors import DataError, UserError
from pushforward.functional.levels import Levels
from pushforward.schema import Schema


def as_dataset(data: Any, name: str = "data", schema: Schema | None = None, levels: Levels = None) -> Dataset:
    """Return data as a `Dataset`: one as it is, and a DataFrame, tensor, array or map-style set with its examples in memory.

    Args:
        data: what was given.
        name: what messages call it.
        schema: the columns that a DataFrame must have; by default they are read from it.
        levels: levels of what has none of its own: tensors, arrays and sets.

    Raises:
        UserError: it is none of these.
        DataError: its content is invalid; see `Dataset`.
    """
    data = of_loader(data)
    if isinstance(data, Dataset):
        return data
    if is_frame(data):
        return Dataset(name, data, schema=schema)
    x, cond = (data, None) if isinstance(data, Tensor | numpy.ndarray) else gathered(name, data)
    return Dataset(name, x, cond, levels=levels)


def for_model(data: Any, model: Any, name: str = "data") -> Dataset:
    """Return data as a `Dataset` in the units of a model: a DataFrame by its schema, what has no levels of its own with the model's.

    Raises:
        UserError: a DataFrame has columns of words, and the model no schema to read them by; or the columns are others than the model's.
    """
    schema, levels = getattr(model, "schema", None), getattr(model, "levels", None)
    if schema is not None and not schema.columns:
        schema = None
    found = as_dataset(data, name, schema, levels)
    check_columns(found, model, name)
    if not is_frame(data) or schema is not None or not hasattr(model, "schema"):
        return found
    if found.categories:
        raise UserError(
            f"{name} has the columns of words {', '.join(found.categories)}, but the model was built without the table's schema; build it "
            "with schema=pf.data.load(frame).schema."
        )
    return Dataset(name, found.x, levels=levels)


def check_columns(data: Dataset, model: Any, name: str) -> None:
    """Raise if the columns of a table, their words or its classes are others than those of a model's schema: numbers would change meaning.

    Raises:
        UserError: they are; the first difference is named.
    """
    own, given = getattr(model, "schema", None), data.schema
    if own is None or given is None or not own.columns or not given.columns:
        return
    if own.names != given.names:
        raise UserError(f"{name} has the columns {', '.join(given.names)}, but the model was built for {', '.join(own.names)}; give these.")
    if own.given and given.given and own.given_names != given.given_names:
        raise UserError(
            f"{name} is given the columns {', '.join(given.given_names)}, but the model was built for {', '.join(own.given_names)}; give "
            "these, in their order."
        )
    words, others = (
        {one.title: one.words for one in (*schema.columns, *schema.given, *([] if schema.label is None else [schema.label])) if one.words}
        for schema in (own, given)
    )
    for title in words:
        if title in others and words[title] != others[title]:
            has, needs = _listed(others[title]), _listed(words[title])
            raise UserError(
                f"{name} has other words in column {title!r} than the model's schema: {has}, not {needs}; give the data that "
                "it was built for, or a DataFrame, which is read by the model's schema."
            )


def _listed(words: tuple[Any, ...]) -> str:
    return ", ".join(str(word) for word in words[:10]) + (", ..." if len(words) > 10 else "")


def as_datasets(*data: Any) -> list[Dataset]:
    """Return parts of one source, such as train and validation, as data sets; DataFrames by the schema of the first part."""
    first = as_dataset(data[0])
    return [first, *(as_dataset(one, schema=first.schema, levels=first.levels) for one in data[1:])]


def read_given(
    data: Any, split: str, seed: int, *, y: Tensor | numpy.ndarray | None = None, levels: int | None = None, name: str = "data"
) -> Dataset:
    """Return one split of an array, a tensor, or a map-style set, as of a file.

    Args:
        data: examples (N, *shape), or a set of x or (x, label), such as those of torch.
        split: "train", "validation" or "test" of a seeded 80/10/10 permutation, stratified when there are labels.
        seed: seed of the permutation.
        y: labels (N,) of an array, integers from 0 or words, or conditions: vectors (N, features) or images (N, channels, height, width).
        levels: number of values a coordinate can take; 256 by default for uint8 images, which become (N, C, H, W).
        name: what messages call it.

    Raises:
        DataError: the content is invalid; see `Dataset`.
    """
    data = of_loader(data)
    if isinstance(data, Dataset):
        return split_whole(data, split, seed)
    if not isinstance(data, Tensor | numpy.ndarray):
        if y is not None:
            raise DataError(f"y is given, but {name} has labels of its own, if any: (x, label); leave it out.")
        data, y = gathered(name, data)
    return divided(name, _as_array(name, "x", data), None if y is None else _as_array(name, "y", y), split, seed, levels=levels)


def _as_array(name: str, what: str, values: Any) -> numpy.ndarray:
    array = as_tensor(name, what, values).detach().cpu().numpy() if isinstance(values, Tensor) else numpy.asanyarray(values)
    return array.astype(str) if array.dtype == object and all(isinstance(one, str) for one in array.flat) else array
