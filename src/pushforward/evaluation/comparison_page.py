"""The page of a comparison: a self-contained HTML file with a table that sorts, pictures, and the command."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pushforward.evaluation.comparison import TRAINING_DATA, Cell, Column, Row, evaluations_of, reasons_of, text_of
from pushforward.evaluation.pages import embedded, rendered
from pushforward.evaluation.report import environment
from pushforward.formats.files import write_text


def write_page(
    path: Path,
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    title: str,
    lead: str,
    notes: Sequence[str],
    command: str,
    quality: Path,
    samples: Mapping[str, Path],
) -> None:
    """Write table.html.

    Args:
        path: output file.
        rows: the table.
        columns: its columns.
        title: heading.
        lead: a sentence below it.
        notes: how it was measured, a sentence each.
        command: the command that writes it.
        quality: picture of the metrics against evaluations, if it exists.
        samples: of each model a picture of its samples, if it exists.
    """
    best = {column.key: _best(rows, column) for column in columns}
    shown = [
        {
            "model": row.model, "seeds": row.seeds, "evaluations": evaluations_of(row), "count": row.evaluations or "",
            "order": 1 if row.evaluations is None else row.evaluations, "reference": row.model == TRAINING_DATA,
            "cells": [_cell(row, row.cells[column.key], column, best[column.key]) for column in columns],
        }
        for row in rows
    ]  # fmt: skip
    text = rendered(
        "comparison.html.jinja", title=title, lead=lead, columns=columns, rows=shown, notes=notes, command=command,
        environment=environment(), counts=sorted({row.evaluations for row in rows if row.evaluations}), reasons=reasons_of(rows, columns),
        spread=any(cell.sd is not None for row in rows for cell in row.cells.values()),
        quality=embedded(quality) if quality.is_file() else "",
        samples=[(name, embedded(picture)) for name, picture in samples.items() if picture.is_file()],
    )  # fmt: skip
    write_text(path, text)


def _cell(row: Row, cell: Cell, column: Column, best: float | None) -> dict[str, Any]:
    mean, _, spread = text_of(cell, column).partition(" ± ")
    value = "" if cell.mean is None or not math.isfinite(cell.mean) else repr(cell.mean)
    marked = best is not None and cell.mean == best and row.model != TRAINING_DATA
    return {"text": mean, "spread": f"± {spread}" if spread else "", "value": value, "best": marked, "reason": cell.reason}


def _best(rows: Sequence[Row], column: Column) -> float | None:
    """The best value of a column over all models; None where neither direction is better, or there is nothing to choose from."""
    values = [row.cells[column.key].mean for row in rows if row.model != TRAINING_DATA]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not column.better or len(set(known)) < 2:
        return None
    return min(known) if column.better == "lower" else max(known)
