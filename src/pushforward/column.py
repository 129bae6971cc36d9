"""One column of a table: its kind, words, range and scale."""

from dataclasses import dataclass
from typing import Literal

import numpy
from torch import Tensor

from pushforward._checks import is_real, shown
from pushforward.errors import UserError
from pushforward.functional.levels import Level
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
