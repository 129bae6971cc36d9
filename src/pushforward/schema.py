"""What the features of a table are: names, kinds, words and ranges, by which a model's samples become rows of the table again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from pushforward._checks import is_real, is_whole, shown
from pushforward._pandas import pandas_for
from pushforward.errors import ShapeError, UserError
from pushforward.functional.levels import Level, Levels
from pushforward.registry import export

Kind = Literal["continuous", "integer", "category", "missing"]
Scale = Literal["none", "log", "logit", "quantile"]
Word = str | int | bool | float | None


@export("data.Column", example=lambda: Column("colour", "category", words=("blue", "red")))
@dataclass(frozen=True)
class Column:
    """One feature of a table: a real number, an integer, the number of a category, or whether another column's value is missing.

    Args:
        title: the column's name.
        kind: "continuous"; "integer"; "category", whose values are numbered from 0; or "missing", which is 1 where the column `of` is
            missing and 0 elsewhere.
        words: the values that the numbers of a category stand for; None among them is a missing value.
        low: smallest value in the table, None where it is not known.
        high: largest value in the table.
        scale: how a model sees it (`bijections.TableUnits`): "none", "log" above `lower`, "logit" between `lower` and `upper`, "quantile".
        lower: what no value is below, None if there is no such bound.
        upper: what no value is above.
        offset: distance of the scale's ends from the bounds, more than 0 where values lie on them.
        dequantised: whether integers have unit cells, over which training and likelihoods spread them; otherwise they are only rounded.
        of: the column whose missing values this one marks.

    Raises:
        UserError: the kind or scale is unknown, a category has no words, or a scale has no bound.

    Example:
        >>> from pushforward import data
        >>> data.Column("colour", "category", words=("blue", "red")).values(numpy.array([1.0, 0.0]))
        array(['red', 'blue'], dtype=object)
    """

    title: str
    kind: Kind = "continuous"
    words: tuple[Word, ...] = ()
    low: float | None = None
    high: float | None = None
    scale: Scale = "none"
    lower: float | None = None
    upper: float | None = None
    offset: float = 0.0
    dequantised: bool = False
    of: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("continuous", "integer", "category", "missing"):
            raise UserError(f"kind is {self.kind!r}, but a column is 'continuous', 'integer', 'category' or 'missing'.")
        for name in ("low", "high", "lower", "upper", "offset"):
            value = getattr(self, name)
            if value is not None and not is_real(value):
                raise UserError(f"{name} of column {self.title!r} is {shown(value)}, but it must be a finite number.")
        if (self.kind == "category") != bool(self.words):
            raise UserError(f"column {self.title!r} is {self.kind} with {len(self.words)} words, but a category has words, and no other.")
        if self.scale not in ("none", "log", "logit", "quantile"):
            raise UserError(f"the scale of column {self.title!r} is {self.scale!r}, but it is 'none', 'log', 'logit' or 'quantile'.")
        if (self.scale in ("log", "logit") and self.lower is None) or (self.scale == "logit" and self.upper is None):
            raise UserError(
                f"the scale of column {self.title!r} is {self.scale!r}, which needs bounds; give lower (and upper, for 'logit')."
            )

    @property
    def levels(self) -> Level:
        """The levels of the feature (`data.Dataset`): None for one that is not dequantised."""
        if self.kind == "missing":
            return 2
        if self.kind != "integer" or not self.dequantised or self.low is None or self.high is None:
            return len(self.words) or None
        return int(self.low), int(self.high)

    def rounded(self, feature: Tensor) -> Tensor:
        """Return a feature (n,) of samples as the table has it: integers from cells [k, k + 1), numbers within their bounds."""
        if self.kind in ("category", "missing"):
            return feature.floor().clamp(0, (len(self.words) or 2) - 1)
        if self.kind == "integer":
            integers = feature.floor() if self.dequantised else feature.round()
            return integers if self.low is None else integers.clamp(self.low, self.high)
        return feature if self.lower is None and self.upper is None else feature.clamp(self.lower, self.upper)

    def values(self, feature: numpy.ndarray) -> numpy.ndarray:
        """Return the table's values (n,) for a rounded feature (n,): words, integers (int64) or real numbers."""
        if self.kind == "category":
            words = numpy.empty(len(self.words), dtype=object)
            words[:] = self.words
            return words[feature.astype(numpy.int64)]
        return feature.astype(numpy.int64) if self.kind == "integer" else feature

    def __str__(self) -> str:
        if self.kind == "category":
            return f"{self.title}: {len(self.words)} words"
        if self.kind == "missing":
            return f"{self.title}: 0 or 1"
        scale = "" if self.scale == "none" else f", {self.scale} scale"
        known = "" if self.low is None or self.high is None else f" {self.low:g} to {self.high:g}"
        return f"{self.title}: {self.kind}{known}{scale}"


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

    Raises:
        UserError: two columns have the same name, or the label is no category.

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

    def __post_init__(self) -> None:
        names = [*self.names, *([] if self.label is None else [self.label.title])]
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise UserError(f"the table has two columns {name!r}, but each needs a name of its own; rename one.")
            seen.add(name)
        if self.label is not None and self.label.kind != "category":
            raise UserError(f"the label column {self.label.title!r} is {self.label.kind}, but classes are a category.")

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

    def without_label(self) -> "Schema | None":
        """Return the schema of the same columns for data without classes, None if nothing is left of it."""
        return Schema(self.columns) if self.columns else None

    def label_of(self, name: str) -> int:
        """Return the number of the class with this name, or that is this number.

        Raises:
            UserError: there is no such class.
        """
        names = self.class_names or ()
        if name in names:
            return names.index(name)
        if name.isdecimal() and int(name) < len(names):
            return int(name)
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
            labels: the class of each row (n,), numbers or names, or None.

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
        if labels is None or self.label is None:
            return found
        numbers = self._numbers(labels)
        if len(numbers) != len(x):
            raise ShapeError(f"labels has {len(numbers)} rows, but x has {len(x)}; give one label for each row.")
        items = list(found.items())
        items.insert(len(items) if self.place is None else self.place, (self.label.title, self.label.values(numbers)))
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
