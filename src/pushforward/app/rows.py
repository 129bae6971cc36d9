"""Tables: rows that a model draws, and missing cells that it fills in, as DataFrames."""

from typing import Any

import torch
from torch import Tensor

from pushforward._pandas import pandas_for
from pushforward.app.asked import Asked
from pushforward.app.loaded import Loaded
from pushforward.errors import UserError
from pushforward.evaluation.quantise import quantise
from pushforward.families.path_model import PathModel
from pushforward.imputation import impute
from pushforward.schema import Schema

DIGITS = 4  # decimals that are shown
MOST_ROWS = 200  # of a table whose cells are filled in


def frame_of(loaded: Loaded, x: Tensor, labels: Tensor | None) -> Any:
    """Return samples (n, features) as a DataFrame with the names and words of the data."""
    pandas, model = pandas_for("the table"), loaded.model
    schema = model.schema or Schema()
    x = quantise(x.detach().cpu(), model.levels)
    known = labels is not None and labels.ndim == 1 and not labels.is_floating_point()
    marks = labels.cpu() if labels is not None and known else None
    if schema.columns:
        cond = labels if schema.given else marks if schema.label is not None else None
        return schema.frame(schema.rounded(x), cond).round(DIGITS)
    table = {f"x{k}": column.numpy() for k, column in enumerate(x.T)}
    if marks is not None:
        table["label"] = marks.numpy() if schema.label is None else schema.label.values(marks.numpy())
    return pandas.DataFrame(table).round(DIGITS)


def fills(loaded: Loaded) -> bool:
    """Return whether a model can fill in missing cells."""
    return isinstance(loaded.model, PathModel) and loaded.model.schema is not None and bool(loaded.model.schema.columns)


def example(loaded: Loaded, n: int = 5) -> Any:
    """Return rows of the run's test set, or of the model, with one cell of each missing."""
    data = loaded.tested
    x, cond = data[:n] if data is not None else (loaded.model.sample(n, Asked(n).cond), None)
    frame = frame_of(loaded, x, cond if isinstance(cond, Tensor) else None).astype(object)
    columns = len(loaded.model.schema.columns) if loaded.model.schema is not None else frame.shape[1]
    for row in range(len(frame)):
        frame.iloc[row, row % columns] = None
    return frame


def filled(loaded: Loaded, frame: Any, seed: int = 0) -> Any:
    """Return a table without missing cells: each is drawn from the model given the rest of its row.

    Raises:
        UserError: the model cannot, there are no rows or too many, or a cell is no value of its column.
        DataError: a column is missing.
    """
    pandas = pandas_for("the table")
    if not fills(loaded) or not isinstance(loaded.model, PathModel):
        raise UserError(f"{loaded.name} cannot fill in cells; use a model of a table on a path, such as rectified_flow or flow_matching.")
    if not isinstance(frame, pandas.DataFrame) or not len(frame):
        raise UserError("the table has no rows; enter at least one, with an empty cell where a value is missing.")
    if len(frame) > MOST_ROWS:
        raise UserError(f"the table has {len(frame)} rows, more than {MOST_ROWS}; fill in fewer together.")
    schema = loaded.model.schema
    assert schema is not None
    table = frame.copy().astype(object)
    table = table.where(~(table.isna() | (table == "")), None)
    numbers = {column.title for column in (*schema.columns, *schema.given) if column.kind in ("continuous", "integer")}
    for title in table.columns:
        if title in numbers:
            table[title] = _numbers(pandas, str(title), table[title])
    if schema.label is not None and schema.label.title in table and table[schema.label.title].isna().all():
        table = table.drop(columns=schema.label.title)
    made = impute(loaded.model, table, generator=torch.Generator().manual_seed(seed))
    return made.round(DIGITS)


def _numbers(pandas: Any, title: str, cells: Any) -> Any:
    found = pandas.to_numeric(cells, errors="coerce")
    wrong = (found.isna() & ~cells.isna()) | found.isin([float("inf"), float("-inf")])
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise UserError(f"row {row + 1} of column {title!r} is {str(cells.iloc[row])[:40]!r}, but it must be a number, or empty.")
    return found.astype(float)
