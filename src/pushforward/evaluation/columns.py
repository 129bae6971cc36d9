"""The columns of vectors by their schema: which there are, and where their values are missing."""

import torch
from torch import Tensor

from pushforward.column import Column
from pushforward.data.dataset import Dataset
from pushforward.data.inference import described
from pushforward.schema import Schema


def schema_of(data: Dataset) -> Schema | None:
    """Return the schema of vectors, with the names x1, x2, ... where they have none; None for other data, such as images."""
    if len(data.shape) != 1:
        return None
    if data.schema is not None and data.schema.columns:
        return data.schema
    return described([f"x{k + 1}" for k in range(data.shape[0])], data.levels, {}, None)


def columns_of(schema: Schema, x: Tensor) -> list[tuple[Column, Tensor]]:
    """Return each column of the table that x (n, features) holds as float64 (n,) with NaN where a value is missing.

    Categories are their numbers, NaN for the word None; integers and bounded numbers are as `schema.table` has them.
    """
    features = schema.rounded(x.detach().cpu()).double()
    gaps = gaps_of(schema, features)
    found = []
    for k, column in enumerate(schema.columns):
        if column.kind == "missing":
            continue
        values = features[:, k]
        missing = gaps.get(column.title, torch.zeros(len(values), dtype=torch.bool))
        if None in column.words:
            missing = missing | (values == column.words.index(None))
        found.append((column, values.masked_fill(missing, torch.nan)))
    return found


def gaps_of(schema: Schema, x: Tensor) -> dict[str, Tensor]:
    """Return where the value of a column is missing (n,), by the column's name, for the columns that another feature of x marks."""
    return {column.of: x[:, k] > 0 for k, column in enumerate(schema.columns) if column.kind == "missing" and column.of is not None}
