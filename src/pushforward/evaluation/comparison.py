"""The table of a comparison: one row for each model and number of network evaluations, with mean and spread over seeds."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pushforward.evaluation.measured import Measured
from pushforward.evaluation.units import fixed

DASH = "—"
TRAINING_DATA = "training data"
FAR = 1.5  # ratio of the training time to that of the budget, or its inverse, from which a model's training was longer or shorter
NEEDS_LABELS = "needs a model of classes, whose labels a classifier can compare with"


@dataclass(frozen=True)
class Column:
    """A column of numbers: its key, its heading, how a value is written, and whether lower or higher is better (or neither)."""

    key: str
    title: str
    form: str
    better: str = ""
    times: float = 1.0


@dataclass(frozen=True)
class Cell:
    """A number over seeds: its mean and standard deviation (None for fewer than 2), or the reason why there is none."""

    mean: float | None = None
    sd: float | None = None
    count: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One model, or the training data, at one number of evaluations; None is one pass of an exact map, 0 takes none."""

    model: str
    seeds: int
    evaluations: int | None
    cells: dict[str, Cell]


def columns_of(likelihood_unit: str, distance_unit: str) -> list[Column]:
    """Return the columns for data with these units."""
    distance = "sliced Wasserstein" + (" (standardised)" if distance_unit == "standardised" else "")
    return [
        Column("parameters", "parameters", ",.0f"),
        Column("steps", "steps", ",.0f"),
        Column("seconds", "training s", ".0f"),
        Column("likelihood", likelihood_unit, ".3f", "lower"),
        Column("milliseconds", "ms a sample", ".3g", "lower"),
        Column("sliced_wasserstein", distance, ".3f", "lower"),
        Column("kernel_distance", "KID × 1000", ".1f", "lower", 1000.0),
        Column("precision", "precision", ".3f", "higher"),
        Column("recall", "recall", ".3f", "higher"),
        Column("density", "density", ".3f", "higher"),
        Column("coverage", "coverage", ".3f", "higher"),
        Column("recognised", "recognised", ".3f", "higher"),
    ]


OF_MODEL = ("parameters", "steps", "seconds", "likelihood")  # columns whose value is that of the model, at any number of evaluations


def rows_of(groups: Mapping[str, Sequence[Measured]], reference: Mapping[str, float], keys: Sequence[str]) -> list[Row]:
    """Return the rows of groups of measured models, which differ in their seeds only, and of training data.

    Args:
        groups: the models by name, of each the results of its seeds.
        reference: the metrics of training data in the place of samples, which come last.
        keys: keys of the columns.
    """
    rows = []
    for name, found in groups.items():
        failure = next((one.failure for one in found if one.failure), "")
        whole = {key: _cell([getattr(one, key) for one in found], failure or _reason(found, key)) for key in OF_MODEL}
        for count in list(dict.fromkeys(one.evaluations for each in found for one in each.samples)) or [None]:
            at = [one for each in found for one in each.samples if one.evaluations == count]
            reason = failure or next((one.reason for one in at if one.reason), "") or NEEDS_LABELS
            values = {key: [one.milliseconds if key == "milliseconds" else one.scores.get(key) for one in at] for key in keys}
            cells = {key: whole[key] if key in whole else _cell(values[key], reason) for key in keys}
            rows.append(Row(name, sum(not one.failure for one in found), count, cells))
    absent = Cell(reason="training data are no model")
    cells = {key: Cell(reference[key], None, 1) if key in reference else absent for key in keys}
    return [*rows, Row(TRAINING_DATA, 1, 0, cells)]


def _cell(values: Sequence[float | None], reason: str) -> Cell:
    known = [float(value) for value in values if value is not None]
    if not known:
        return Cell(reason=reason)
    return Cell(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _reason(found: Sequence[Measured], key: str) -> str:
    if key == "likelihood":
        return next((one.likelihood_reason for one in found if one.likelihood_reason), "")
    return "not recorded by its run"


def text_of(cell: Cell, column: Column) -> str:
    """Return a cell as text: the mean, with ± the standard deviation over seeds where there are several; a dash without a number."""
    if cell.mean is None:
        return DASH
    counted = column.key in ("parameters", "steps")
    text = format(column.times * cell.mean, column.form) if counted else fixed(column.times * cell.mean, column.form)
    return text if cell.sd is None or (cell.sd == 0 and counted) else f"{text} ± {fixed(column.times * cell.sd, column.form)}"


def evaluations_of(row: Row) -> str:
    """Return the number of evaluations of a row as text."""
    return "1 pass" if row.evaluations is None else DASH if row.evaluations == 0 else str(row.evaluations)


def reasons_of(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Return why values are missing: one sentence for each model and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for column in columns:
            reason = row.cells[column.key].reason
            if reason and row.model != TRAINING_DATA:
                titles = found.setdefault((row.model, reason), [])
                if column.title not in titles:
                    titles.append(column.title)
    return [
        f"{model}: {reason}" if len(titles) > len(OF_MODEL) + 2 else f"{model}, {', '.join(titles)}: {reason}"
        for (model, reason), titles in found.items()
    ]


def lost_seeds(groups: Mapping[str, Sequence[Measured]]) -> list[str]:
    """Return a sentence for each model of which some seeds failed and others did not, so that its row is that of the others."""
    sentences = []
    for name, found in groups.items():
        failures = [one.failure for one in found if one.failure]
        if 0 < len(failures) < len(found):
            sentences.append(f"{name}: {len(failures)} of {len(found)} seeds failed and are left out of its row ({failures[0]}).")
    return sentences


def uneven(rows: Sequence[Row], seconds: float) -> list[str]:
    """Return a sentence that names the models whose training took far more or less than the seconds of all, if there are any."""
    spent = {row.model: row.cells["seconds"].mean for row in rows}
    far = {model: mean for model, mean in spent.items() if mean is not None and not seconds / FAR < mean < seconds * FAR}
    if not far:
        return []
    named = ", ".join(f"{model} ({mean:.3g} s)" for model, mean in far.items())
    return [
        f"The models were not trained equally: {named} took far from {seconds:g} s, as happens where other programs keep the processors "
        "busy while steps are timed or taken; compare again in a new folder on an idle machine."
    ]


def csv_of(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """Return the table as CSV: of each column the mean and the standard deviation over seeds, empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "seeds", "evaluations", *(f"{one.key}{end}" for one in columns for end in ("", "_sd"))])
    for row in rows:
        numbers = [value for one in columns for value in (row.cells[one.key].mean, row.cells[one.key].sd)]
        count = "" if row.evaluations in (None, 0) else row.evaluations
        writer.writerow([row.model, row.seeds, count, *("" if value is None else repr(value) for value in numbers)])
    return out.getvalue()


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table as mappings and lists, as JSON stores them."""
    return [asdict(row) for row in rows]
