"""What the features of a table are: names, kinds, words and ranges, by which a model's samples become rows of the table again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._checks import is_whole
from pushforward._pandas import pandas_for
from pushforward.column import Column, Word
from pushforward.errors import ShapeError, UserError
from pushforward.functional.levels import Levels
from pushforward.registry import export


@export("data.Schema", example=lambda: Schema((Column("height"), Column("colour", "category", words=("blue", "red")))))
@dataclass(frozen=True)
class Schema:
    """The columns of a table and its classes: what a data set knows of its source, and a model of its samples.

    A data set has it as `schema`, a model built with `schema=` keeps it in its configuration, so that a saved model alone returns
    samples as a table. `print(schema)` lists the columns with the scales that were chosen for them.

    Args:
        columns: one for each feature, in order; empty for data that are no table, such as images.
        label: the column of classes, None for data without class names.
        place: number of the label column in the table.
        given: the columns that the others are conditional on (`data.load(..., given=)`). A condition is a vector of them in this order: a
            number as it is, a category as one entry a word, 1 for its word and 0 for the others.
        given_places: numbers of these columns in the table.

    Raises:
        UserError: two columns have the same name, the label is no category, or there are both a label and given columns.

    Example:
        >>> import torch
        >>> from pushforward import data
        >>> schema = data.load("iris").schema
        >>> table = schema.table(torch.tensor([[5.1, 3.5, 1.4, 0.2]]), torch.tensor([2]))
        >>> list(table)[:2], table["label"]
        (['sepal length (cm)', 'sepal width (cm)'], array(['virginica'], dtype=object))
    """

    columns: tuple[Column, ...] = ()
    label: Column | None = None
    place: int | None = None
    given: tuple[Column, ...] = ()
    given_places: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        names = [*self.names, *([] if self.label is None else [self.label.title]), *self.given_names]
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise UserError(f"the table has two columns {name!r}, but each needs a name of its own; rename one.")
            seen.add(name)
        if self.label is not None and self.label.kind != "category":
            raise UserError(f"the label column {self.label.title!r} is {self.label.kind}, but classes are a category.")
        if self.label is not None and self.given:
            raise UserError(
                f"the table has the label {self.label.title!r} and the given columns {', '.join(self.given_names)}, but a condition is one "
                "or the other; give all of them as given."
            )
        if self.given_places and len(self.given_places) != len(self.given):
            raise UserError(f"given_places has {len(self.given_places)} numbers for {len(self.given)} given columns; give one for each.")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features."""
        return tuple(one.title for one in self.columns)

    @property
    def categories(self) -> dict[str, tuple[Word, ...]]:
        """The values that the numbers of each category stand for, by the column's name."""
        return {one.title: one.words for one in self.columns if one.words}

    @property
    def levels(self) -> Levels:
        """The levels of the features (`data.Dataset`), None where all are continuous."""
        each = tuple(one.levels for one in self.columns)
        return None if all(one is None for one in each) else each

    @property
    def classes(self) -> int | None:
        """The number of classes, None without a label."""
        return None if self.label is None else len(self.label.words)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes as text, None without a label."""
        return None if self.label is None else tuple(str(word) for word in self.label.words)

    @property
    def given_names(self) -> tuple[str, ...]:
        """The names of the columns that the others are conditional on."""
        return tuple(one.title for one in self.given)

    @property
    def cond_features(self) -> int | None:
        """The length of a vector of the given columns, None without any."""
        return sum(len(one.words) or 1 for one in self.given) or None

    def of_condition(self, shape: tuple[int, ...] | None) -> "Schema | None":
        """Return the schema of the same columns for data with conditions of this shape, None for none; or None if nothing is left of it.

        Labels, of shape (), keep the label, and vectors of their length the given columns.
        """
        label = self.label if shape == () else None
        given = bool(self.given) and shape == (self.cond_features,)
        if not self.columns and label is None:
            return None
        return replace(
            self, label=label, place=None if label is None else self.place, given=self.given if given else (),
            given_places=self.given_places if given else (),
        )  # fmt: skip

    def given_values(self, cond: Tensor) -> dict[str, numpy.ndarray]:
        """Return conditions (n, cond_features) as the given columns, by name: words, integers as int64, real numbers.

        Raises:
            ShapeError: a condition has another length.
        """
        rows = torch.as_tensor(cond)
        if rows.ndim != 2 or rows.shape[1] != self.cond_features:
            raise ShapeError(
                f"cond has shape {tuple(rows.shape)}, but the given columns {', '.join(self.given_names)} need (n, {self.cond_features})."
            )
        parts = rows.detach().cpu().double().numpy()
        found: dict[str, numpy.ndarray] = {}
        for one in self.given:
            part, parts = numpy.split(parts, [len(one.words) or 1], axis=1)
            values = part.argmax(1) if one.words else part[:, 0]
            whole = one.kind != "integer" or bool((values == numpy.rint(values)).all())
            found[one.title] = one.values(values) if whole else values
        return found

    def label_of(self, name: str) -> int:
        """Return the number of the class with this name, or that is this number.

        Raises:
            UserError: there is no such class, or a code with leading zeros (01) is meant or the number of another class (1).
        """
        names = self.class_names or ()
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) < len(names):
            number = int(name)
            code = next((one for one in names if one.isdecimal() and int(one) == number), names[number])
            if code != names[number]:
                raise UserError(
                    f"label is {name!r}, the class {code} without zeros or the number of {names[number]}; give the name of one."
                )
            return number
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise UserError(f"label is {name!r}, but the classes are {shown}; give one of them, or its number from 0 to {len(names) - 1}.")

    def rounded(self, x: Tensor) -> Tensor:
        """Return samples (n, features) with integers, also those of categories, where the table has them, and numbers in their bounds."""
        return torch.stack([one.rounded(x[:, k]) for k, one in enumerate(self.columns)], dim=1)

    def table(self, x: Tensor, labels: Tensor | None = None) -> dict[str, numpy.ndarray]:
        """Return rows as the table's columns, by name: words, integers as int64, real numbers, and the label with its names.

        Missing values are NaN in columns of real numbers and None in others.

        Args:
            x: samples or examples (n, features) in the data's units, a tensor or array.
            labels: the class of each row (n,), numbers or names; for a table with given columns the condition of each row
                (n, cond_features); or None.

        Raises:
            ShapeError: x has another number of features than the table, or labels another number of rows.
            UserError: a label is not one of the classes.
        """
        x = torch.as_tensor(x)
        if x.ndim != 2 or x.shape[1] != len(self.columns):
            raise ShapeError(f"x has shape {tuple(x.shape)}, but the table has {len(self.columns)} columns; give (n, {len(self.columns)}).")
        features = self.rounded(x.detach().cpu()).double().numpy()
        found: dict[str, numpy.ndarray] = {}
        for k, one in enumerate(self.columns):
            if one.kind != "missing":
                found[one.title] = one.values(features[:, k])
            elif one.of is not None:
                found[one.of] = _without(found[one.of], features[:, k] > 0)
        if labels is None or (self.label is None and not self.given):
            return found
        known = self.given_values(labels) if self.label is None else {self.label.title: self.label.values(self._numbers(labels))}
        count = len(next(iter(known.values())))
        if count != len(x):
            raise ShapeError(f"labels has {count} rows, but x has {len(x)}; give one label for each row.")
        items = list(found.items())
        places = self.given_places if self.label is None else () if self.place is None else (self.place,)
        for place, item in zip(places or range(len(items), len(items) + len(known)), known.items(), strict=True):
            items.insert(place, item)  # in ascending order
        return dict(items)

    def _numbers(self, labels: Any) -> numpy.ndarray:
        """Return labels as the numbers of classes (n,), int64."""
        held = labels.tolist() if hasattr(labels, "tolist") else list(labels)
        numbers = [self.label_of(str(one)) if not is_whole(one) else int(one) for one in held]
        wrong = next((one for one in numbers if not 0 <= one < len(self.class_names or ())), None)
        if wrong is not None:
            raise UserError(f"labels has {wrong}, but the classes are numbered from 0 to {len(self.class_names or ()) - 1}.")
        return numpy.array(numbers, dtype=numpy.int64)

    def frame(self, x: Tensor, labels: Tensor | None = None) -> Any:
        """Return rows as a DataFrame of pandas with the table's columns; see `table`.

        Raises:
            UserError: pandas is not installed.
        """
        return frame_of(self.table(x, labels), self.columns)

    def __str__(self) -> str:
        lines = [str(one) for one in self.columns]
        if self.label is not None:
            lines.append(f"{self.label.title}: label, {len(self.label.words)} classes")
        lines += [f"{one}, given" for one in self.given]
        return "\n".join(lines)


def frame_of(table: Mapping[str, numpy.ndarray], columns: Sequence[Column] = ()) -> Any:
    """Return a table as a DataFrame of pandas: integers with missing values as Int64, words of the type that all of them are."""
    integers = [one.title for one in columns if one.kind == "integer" and table[one.title].dtype == object]
    held = {name: values.tolist() if values.dtype == object else values for name, values in table.items()}
    return pandas_for("a DataFrame").DataFrame(held).astype(dict.fromkeys(integers, "Int64"))


def _without(values: numpy.ndarray, missing: numpy.ndarray) -> numpy.ndarray:
    if values.dtype.kind == "f":
        return numpy.where(missing, numpy.nan, values)
    held = values.astype(object)
    held[missing] = None
    return held
