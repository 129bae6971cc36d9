"""The files of a comparison: table.html, table.csv, table.json and pictures, written again after each model, and its printed table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Printed

from pushforward._files import json_of
from pushforward._files import text_of as text_in
from pushforward.cli.contestants import digest_of, name_of
from pushforward.cli.output import result
from pushforward.cli.run import check_folder
from pushforward.errors import UserError
from pushforward.evaluation.comparison import (
    OF_MODEL,
    Column,
    Row,
    columns_of,
    csv_of,
    evaluations_of,
    lost_seeds,
    plain,
    reasons_of,
    rows_of,
    text_of,
    uneven,
)
from pushforward.evaluation.comparison_page import write_page
from pushforward.evaluation.comparison_pictures import quality_picture
from pushforward.evaluation.measured import EXACT, Measured
from pushforward.evaluation.yardstick import Yardstick
from pushforward.formats.files import write_text

JSON, QUALITY = "table.json", "quality.png"


def check_folder_of(out: Path | None, settings: Mapping[str, Any]) -> None:
    """Raise unless a comparison with these settings can be written into a folder, or continued in it.

    Raises:
        UserError: it holds something else, or a comparison with other settings.
    """
    if out is None:
        return
    check_folder(out, f"--out is {out}")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / JSON).is_file():
        raise UserError(f"--out is {out}, which holds no comparison; give a new folder.")
    try:
        before = json_of(text_in(out / JSON, UserError), finite=False)["settings"]
        differing = next((name for name, value in settings.items() if before[name] != json.loads(json.dumps(value))), None)
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{out / JSON} is not readable, so the comparison cannot be continued; give a new folder.") from None
    if differing is not None:
        raise UserError(
            f"--out is {out}, which holds a comparison with {differing.replace('_', '-')} {before[differing]}, not {settings[differing]}; "
            "give a new folder."
        )


def picture_of(folder: Path, name: str) -> Path:
    """Return where the samples of a model are drawn, in the folder of a comparison."""
    stem = name_of(name)
    return folder / "samples" / f"{stem if stem == name else f'{stem}-{digest_of(name)}'}.png"


class Table:
    """The table of a comparison, as far as it has been measured.

    Args:
        folder: where it is written, or None.
        settings: what must be equal to continue it.
        command: the command that writes it.
        yardstick: what models are measured with.
        expected: the number of results of each model that there will be, in the order of the table.
    """

    def __init__(
        self, folder: Path | None, settings: Mapping[str, Any], command: str, yardstick: Yardstick, expected: Mapping[str, int]
    ) -> None:
        self.folder, self.settings, self.command, self.yardstick = folder, settings, command, yardstick
        self.found: dict[str, list[Measured]] = {name: [] for name in expected}
        self.reference = yardstick.of_training_data()
        self.columns = columns_of(yardstick.likelihood_unit, yardstick.distance_unit)
        if yardstick.classifier is None:
            self.columns = [one for one in self.columns if one.key != "recognised"]

    @property
    def failed(self) -> bool:
        """Whether a model has no results."""
        return any(one.failure for each in self.found.values() for one in each)

    def add(self, name: str, measured: Measured) -> None:
        """Add the results of a model with one seed, and write the table, with the pictures as they are."""
        self.found[name].append(measured)
        self.write()

    def finish(self) -> None:
        """Draw the quality against evaluations, write the table with it, and print it."""
        if self.folder is not None and quality_picture(self.rows(), self.columns, self.folder / QUALITY):
            self.write()
        self._show()

    def rows(self) -> list[Row]:
        """Return the rows of the models that have been measured."""
        return rows_of({name: each for name, each in self.found.items() if each}, self.reference, [one.key for one in self.columns])

    def write(self) -> None:
        """Write the files."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        notes = [*lost_seeds(self.found), *self._uneven(rows), *self._notes()]
        measured = {name: [one.plain() for one in each] for name, each in self.found.items()}
        content = {
            "command": self.command, "settings": self.settings, "notes": notes, "rows": plain(rows),
            "columns": [vars(one) for one in self.columns], "models": measured,
        }  # fmt: skip
        write_text(self.folder / JSON, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        write_text(self.folder / "table.csv", csv_of(rows, self.columns))
        pictures = {name: picture_of(self.folder, name) for name in self.found}
        write_page(
            self.folder / "table.html", rows, self.columns, title=self._title(), lead=self._lead(), notes=notes,
            command=self.command, quality=self.folder / QUALITY, samples=pictures,
        )  # fmt: skip

    def _show(self) -> None:
        """Print the table, why values are missing, and where the page is."""
        rows, console = self.rows(), Console()
        page = None if self.folder is None else self.folder / "table.html"
        result(page, table=page, rows=plain(rows), columns=[vars(one) for one in self.columns], failed=self.failed)
        parts = [self.columns]
        if self._printed(rows, self.columns).__rich_measure__(console, console.options.update(width=1000)).maximum > console.width:
            parts = [[one for one in self.columns if (one.key in OF_MODEL) == of_model] for of_model in (True, False)]
        for columns in parts:
            printed = self._printed(rows, columns)
            needed = printed.__rich_measure__(console, console.options.update(width=1000)).maximum
            Console(width=max(console.width, needed)).print(printed, highlight=False, markup=False)
        for sentence in (*reasons_of(rows, self.columns), *lost_seeds(self.found), *self._uneven(rows)):
            console.print(f"— {sentence}", highlight=False, markup=False)
        if page is not None:
            print(f"table: {page}")

    @staticmethod
    def _printed(rows: Sequence[Row], columns: Sequence[Column]) -> Printed:
        """Return the rows with some columns; values of a model, which do not depend on evaluations, once."""
        printed = Printed("model", box=None, pad_edge=False)
        of_model = all(one.key in OF_MODEL for one in columns)
        for title in ([] if of_model else ["evaluations"]) + [one.title for one in columns]:
            printed.add_column(title, justify="right")
        for column in printed.columns:
            column.no_wrap = True
        before = None
        for row in rows:
            again, before = row.model == before, row.model
            if again and of_model:
                continue
            cells = ["" if again and one.key in OF_MODEL else text_of(row.cells[one.key], one) for one in columns]
            printed.add_row("" if again else row.model, *([] if of_model else [evaluations_of(row)]), *cells)
        return printed

    def _title(self) -> str:
        return f"{len(self.found)} model{'s' * (len(self.found) != 1)} of {self.settings['data']['name']}"

    def _lead(self) -> str:
        yardstick = self.yardstick
        seconds, steps = self.settings["seconds"], self.settings["train_steps"]
        trained = "The models are runs"
        if seconds or steps:
            trained = "Each preset was trained for " + (
                f"the steps of {seconds:g} seconds of an idle machine" if seconds else f"{steps} steps"
            )
        return f"{trained}; all are measured on the same {yardstick.size} {self.settings['split']} examples, with as many samples."

    def _uneven(self, rows: Sequence[Row]) -> list[str]:
        seconds = self.settings["seconds"]
        return uneven(rows, seconds) if seconds else []

    def _notes(self) -> list[str]:
        yardstick = self.yardstick
        ode = (
            "exact" if len(yardstick.test.shape) == 1 and yardstick.test.shape[0] <= EXACT
            else "one unbiased (Hutchinson) estimate for each example, at a solver tolerance of 0.001"
        )  # fmt: skip
        notes = [
            "Training time is wall-clock time, with validations and checkpoints; weights are averages, by default the best on validation.",
            f"Likelihoods are those of test data given the condition, where a model takes one; the divergence of ODEs is {ode}.",
            "At each number of network evaluations, models of an ODE take Euler steps, and few-step models jump, or jump and renoise.",
            "Samples have the conditions of the test examples; the sliced Wasserstein distance uses 1,000 directions, the same for all.",
            "KID, precision, recall (3 neighbours), density and coverage (5 neighbours) are only comparable within a table; "
            f"their features are {yardstick.features_are}.",
        ]
        if yardstick.classifier is not None:
            name = yardstick.classifier.name
            notes.append(
                f"The classifier ({name}) was trained on real training data only, so in the row of training data it knows its examples."
            )
        return notes
