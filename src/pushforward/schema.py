"""What the features of a table are: names, kinds, words and ranges, by which a model's samples become rows of the table again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy
import torch
from torch import Tensor

from pushforward.errors import ShapeError, UserError
from pushforward.functional.levels import Levels
from pushforward.registry import export

Kind = Literal["continuous", "integer", "category"]
Word = str | int | bool | float


@export("data.Column", example=lambda: Column("colour", "category", words=("blue", "red")))
@dataclass(frozen=True)
class Column:
    """One column of a table, as a model sees it: a feature that is a real number, an integer, or the number of a category.

    Args:
        title: the column's name.
        kind: "continuous", "integer", or "category", whose values are numbered from 0.
        words: the values that the numbers of a category stand for.
        low: smallest value in the table, None where it is not known.
        high: largest value in the table.

    Raises:
        UserError: the kind is unknown, or a category has no words.

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

    def __post_init__(self) -> None:
        if self.kind not in ("continuous", "integer", "category"):
            raise UserError(f"kind is {self.kind!r}, but a column is 'continuous', 'integer' or 'category'.")
        if (self.kind == "category") != bool(self.words):
            raise UserError(f"column {self.title!r} is {self.kind} with {len(self.words)} words, but a category has words, and no other.")

    @property
    def levels(self) -> int | None:
        """The number of levels of the feature, None for one that is not dequantised."""
        return len(self.words) or None

    def rounded(self, feature: Tensor) -> Tensor:
        """Return a feature (n,) of samples with integers where the column has them: cells [k, k + 1) where there are levels."""
        if self.kind == "category":
            return feature.floor().clamp(0, len(self.words) - 1)
        return feature.round().clamp(self.low, self.high) if self.kind == "integer" else feature

    def values(self, feature: numpy.ndarray) -> numpy.ndarray:
        """Return the table's values (n,) for a rounded feature (n,): words, integers (int64) or real numbers."""
        if self.kind == "category":
            words = numpy.empty(len(self.words), dtype=object)
            words[:] = self.words
            return words[feature.astype(numpy.int64)]
        return feature.astype(numpy.int64) if self.kind == "integer" else feature


@export("data.Schema", example=lambda: Schema((Column("height"), Column("colour", "category", words=("blue", "red")))))
@dataclass(frozen=True)
class Schema:
    """The columns of a table and its classes: what a data set knows of its source, and a model of its samples.

    A data set has it as `schema`, a model built with `schema=` keeps it in its configuration, so that a saved model alone returns
    samples as a table.

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
        double = [name for k, name in enumerate(names) if name in names[:k]]
        if double:
            raise UserError(f"the table has two columns {double[0]!r}, but each needs a name of its own; rename one.")
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
        raise UserError(f"--label is {name!r}, but the classes are {shown}; give one of them, or its number from 0 to {len(names) - 1}.")

    def rounded(self, x: Tensor) -> Tensor:
        """Return samples (n, features) with integers, also those of categories, where the table has them."""
        return torch.stack([one.rounded(x[:, k]) for k, one in enumerate(self.columns)], dim=1)

    def table(self, x: Tensor, labels: Tensor | None = None) -> dict[str, numpy.ndarray]:
        """Return rows as the table's columns, by name: words as text, integers as int64, the label with its names.

        Args:
            x: samples or examples (n, features) in the data's units.
            labels: the class of each row (n,), or None.

        Raises:
            ShapeError: x has another number of features than the table.
        """
        if x.ndim != 2 or x.shape[1] != len(self.columns):
            raise ShapeError(f"x has shape {tuple(x.shape)}, but the table has {len(self.columns)} columns; give (n, {len(self.columns)}).")
        features = self.rounded(x).detach().cpu().float().numpy()
        found = {one.title: one.values(features[:, k]) for k, one in enumerate(self.columns)}
        return found if labels is None or self.label is None else self._with_label(found, labels)

    def _with_label(self, found: dict[str, numpy.ndarray], labels: Tensor) -> dict[str, numpy.ndarray]:
        assert self.label is not None
        items = list(found.items())
        place = len(items) if self.place is None else self.place
        items.insert(place, (self.label.title, self.label.values(labels.detach().cpu().numpy())))
        return dict(items)


def described(
    names: Sequence[str] | None,
    levels: Levels,
    categories: Mapping[str, Sequence[Word]],
    class_names: Sequence[Word] | None,
    x: Tensor | None = None,
) -> Schema | None:
    """Return what a data set knows of its columns and classes as a schema, None if it knows nothing.

    Args:
        names: names of the features, or None if the data are no table.
        levels: the data's levels.
        categories: the values that the levels of a column stand for, by its name.
        class_names: names of the classes, or None.
        x: the examples (N, features), if they are in memory.
    """
    each = levels if isinstance(levels, tuple) else [levels] * len(names or ())
    columns = tuple(
        _described(name, each[k], categories.get(name, ()), None if x is None else x[:, k]) for k, name in enumerate(names or ())
    )
    titles = {one.title for one in columns}
    label = next(title for title in ("label", "class", "label of the row") if title not in titles)
    if class_names is None:
        return Schema(columns) if columns else None
    return Schema(columns, Column(label, "category", words=tuple(class_names)))


def _described(name: str, levels: int | None, words: Sequence[Word], x: Tensor | None) -> Column:
    if words:
        return Column(name, "category", words=tuple(words))
    if levels is not None:
        return Column(name, "integer", low=0, high=levels - 1)
    if x is None:
        return Column(name)
    low, high = float(x.min()), float(x.max())
    return Column(name, "integer" if bool((x == x.round()).all()) else "continuous", low=low, high=high)
