"""What estimators share: their parameters, how they read a table and its conditions, and how samples become rows again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pushforward import registry
from pushforward._checks import device_named, real, shown, whole
from pushforward._pandas import as_pandas, is_frame
from pushforward.data.frames import as_words
from pushforward.data.given_columns import raw_of
from pushforward.data.raw import Names, Raw, check_titles, names_of
from pushforward.data.raw_frame import columns_of
from pushforward.data.tabulate import Missing
from pushforward.errors import ConditionError, DataError, UserError
from pushforward.estimators.filling import written_to_array
from pushforward.estimators.given import Conditions
from pushforward.estimators.members import Plan
from pushforward.estimators.reading import Layout, Reader, row
from pushforward.estimators.weights import checked_weights, counted
from pushforward.imputation import written

LEAST, FEWEST = 10, 5  # rows that a flow can be fitted to, or the sum of their weights; and different ones
TARGET = "y"
# Returns rows (n, d) in the units of the table with missing values drawn, and which were missing, given columns, conditions and a seed.
Fill = Callable[[Sequence[Raw], Tensor | None, int], tuple[numpy.ndarray, numpy.ndarray]]


class Rows(NamedTuple):
    """The rows of a table that are trained on.

    Attributes:
        x: their values (n, d), in the model's units.
        cond: their conditions, or None.
        weights: their weights (n,) with mean 1, None where all are equal.
        kept: their numbers (n,) in the table.
    """

    x: Tensor
    cond: Tensor | None
    weights: Tensor | None
    kept: numpy.ndarray


class FlowEstimator(BaseEstimator):
    """The base of estimators whose models are flows of the columns of a table."""

    # Parameters, which `__init__` of a subclass keeps as they are.
    preset: str
    preset_options: Mapping[str, Any] | None
    condition: Names
    categorical: Names
    missing: Missing
    scales: Mapping[str, str] | None
    dequantise: bool
    max_steps: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate: float | Literal["auto"]
    early_stopping: bool
    validation_fraction: float
    patience: int
    warm_start: bool
    random_state: Any
    device: str
    verbose: bool

    choices: ClassVar[tuple[str, ...]] = ()  # what `preset` may be besides the name of one

    result: ClassVar[str]  # the attribute that `fit` sets last

    # Set by fit.
    n_features_in_: int
    reader_: Reader
    conditions_: Conditions | None
    layout_: Layout
    classes_: numpy.ndarray

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "model"
        tags.target_tags.required = self._needs_target
        tags.non_deterministic = False
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, self.result)

    @property
    def _needs_target(self) -> bool:
        return isinstance(self.condition, str) and self.condition == TARGET

    def _check_options(self) -> None:
        """Raise if a parameter is not allowed, before anything is read."""
        known = [name.removeprefix("models.") for name in registry.names("models")]
        if self.preset not in (*self.choices, *known):
            raise UserError(registry.unknown("preset", str(self.preset), known))
        for name in ("preset_options", "scales"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                raise UserError(f"{name} is {shown(value)}, but it is a dictionary, or None.")
        if self.missing not in get_args(Missing):
            raise UserError(f"missing: {registry.unknown('way to treat missing values', str(self.missing), get_args(Missing))}")
        for name in ("max_steps", "batch_size"):
            if getattr(self, name) != "auto":
                whole(name, getattr(self, name), 1, hint="'auto' chooses by the number of rows")
        if self.learning_rate != "auto":
            real("learning_rate", self.learning_rate, 0, hint="'auto' chooses by the number of rows")
        fraction = real("validation_fraction", self.validation_fraction, hint="0.2 is usual")
        if not 0 < fraction < 1:
            raise UserError(f"validation_fraction is {fraction}, but it is a share of the rows above 0 and below 1; 0.2 is usual.")
        whole("patience", self.patience, 1, hint="it is a number of validations without improvement; 10 is usual")

    def _device(self) -> torch.device:
        return device_named("device", self.device)

    def _preset(self, n: int) -> str:
        """Return the preset for this many rows."""
        return self.preset

    def _plan(self, n: int) -> Plan:
        names = {"max_steps": "steps", "batch_size": "batch_size", "learning_rate": "lr"}
        training = {to: getattr(self, name) for name, to in names.items() if getattr(self, name) != "auto"}
        training["patience"] = self.patience
        return Plan(self._preset(n), n, dict(self.preset_options or {}), training, self._device(), bool(self.verbose))

    def _read(self, X: Any, y: Any, sample_weight: Any) -> Rows:
        """Fit reader, layout and conditions to a table, and return the rows that are trained on."""
        self._check_options()
        self._check_target(y)
        refit = self.warm_start and hasattr(self, self.result)
        if not refit and hasattr(self, self.result):
            delattr(self, self.result)  # what follows may be interrupted, and would belong to other columns
        raws = self._raws(X, reset=not refit, gaps=self.missing != "refuse")
        n = len(raws[0].values)
        weights = checked_weights(sample_weight, n)
        kept = numpy.arange(n)
        if self.missing == "drop":
            features, given = self._divided(raws, y, gaps=True)
            kept = numpy.flatnonzero(~numpy.logical_or.reduce([one.missing for one in (*features, *given)]))
        else:
            features, given = self._divided(raws, y)
        features, given = ([one.rows(kept) for one in some] for some in (features, given))
        given_weights = None if weights is None else weights[kept]
        rows, weights = counted([*features, *given], given_weights, FEWEST)
        total, used = len(kept) if given_weights is None else float(given_weights.clip(max=LEAST).sum()), len(rows)
        if max(used, total) < LEAST or used < FEWEST:
            left = f"n_samples={n}" if given_weights is None and len(kept) == n else f"{used} are used"
            raise DataError(
                f"X has {n} sample{'s' * (n != 1)} ({left}), but a flow is fitted to at least {LEAST}, better hundreds; give more."
            )
        kept = kept[rows]
        features, given = ([one.rows(rows) for one in some] for some in (features, given))
        own = None if weights is None else torch.from_numpy(weights)
        if refit:
            x = self.reader_.filled(features, self._seed())
            return Rows(x, None if self.conditions_ is None else self.conditions_.encoded(given), own, kept)
        named = self._categories(raws)
        accepted = [one.title for one in features if one.title in named]
        self.conditions_, cond = Conditions.fitted(given, named, weights) if given else (None, None)
        self.reader_, x = Reader.fitted(
            features, accepted=accepted, missing=self.missing, scales=self.scales, dequantise=self.dequantise, seed=self._seed()
        )
        return Rows(x, cond, own, kept)

    def _raws(self, X: Any, reset: bool = False, gaps: bool | None = None) -> list[Raw]:
        """Return the columns of a table, checked as scikit-learn checks them; `gaps` is whether an array may have missing values."""
        if is_frame(X) and X.ndim == 2:
            frame = as_pandas("X", X)
            check_titles("X", frame.columns)
            validate_data(self, frame, reset=reset, skip_check_array=True)
            raws = columns_of("X", frame)
            layout = Layout(tuple(one.title for one in raws), frame.columns, tuple(frame.dtypes))
        else:
            finite = "allow-nan" if (self.missing == "model" if gaps is None else gaps) else True
            X = validate_data(self, X, reset=reset, dtype=numpy.float64, ensure_all_finite=finite, ensure_min_samples=1)
            raws = [Raw(f"x{k}", X[:, k]) for k in range(X.shape[1])]
            layout = Layout(tuple(one.title for one in raws))
        if reset:
            self.layout_ = layout
        titles = self.layout_.titles  # by their places, where an array follows a DataFrame, of which scikit-learn has warned
        raws = [Raw(title, one.values, one.order, one.problem) for title, one in zip(titles, raws, strict=True)]
        names = self._categories(raws)
        return [as_words("X", one) if one.title in names else one for one in raws]

    def _categories(self, raws: Sequence[Raw]) -> list[str]:
        return names_of("X", "categorical", self.categorical, [one.title for one in raws], numbered=True)

    def _divided(self, raws: Sequence[Raw], y: Any, gaps: bool = False) -> tuple[list[Raw], list[Raw]]:
        """Return the columns that the density is of, and those that it is conditional on, whose values may be missing with `gaps`."""
        if self._needs_target:
            return list(raws), [] if y is None else self._targets(raws, y, gaps)
        titles = [one.title for one in raws]
        chosen = names_of("X", "condition", self.condition, titles, numbered=True)
        if chosen and len(set(chosen)) == len(titles):
            raise UserError(f"condition is {chosen}, which are all columns of X; leave out those whose density is wanted.")
        known = {one.title: one for one in raws}  # in the order of `condition`, in which a row of them is given to `sample`
        return [one for one in raws if one.title not in chosen], [known[title] for title in dict.fromkeys(chosen)]

    def _targets(self, raws: Sequence[Raw], y: Any, gaps: bool) -> list[Raw]:
        check_consistent_length(raws[0].values, y)
        values = numpy.asarray(y)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim == 2:
            return [raw_of(f"{TARGET}{k}", values[:, k]) for k in range(values.shape[1])]
        wrong = (
            numpy.zeros(len(values), dtype=bool) if values.dtype.kind != "f" else numpy.isinf(values) if gaps else ~numpy.isfinite(values)
        )
        if wrong.any():
            first = int(wrong.argmax())
            raise DataError(
                f"y is {values[first]} in {row(first)}, but a density is conditional on it; leave such rows out, or fill it in."
            )
        known = values[~numpy.isnan(values)] if values.dtype.kind == "f" else values
        if values.dtype.kind == "f" and type_of_target(known) not in ("binary", "multiclass"):
            return [Raw(TARGET, values.astype(numpy.float64))]
        words = raw_of(TARGET, values)
        return [as_words(TARGET, words)]

    def _set_classes(self) -> None:
        if self._needs_target and self.conditions_ is not None and self.conditions_.classes:
            self.classes_ = numpy.array(self.conditions_.columns[0].words)
        elif hasattr(self, "classes_"):
            del self.classes_

    def _check_target(self, y: Any) -> None:
        if self._needs_target and y is None:
            raise ConditionError("y is None, but condition='y' requires y to be passed; give one value for each row.")

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _of_rows(self, X: Any, y: Any = None) -> tuple[numpy.ndarray, Tensor | None]:
        """Return rows (n, d) in the units of the table, and their conditions, None where these are a target that is not given."""
        check_is_fitted(self)
        raws = self._raws(X)
        features, given = self._divided(raws, y)
        self._refuse_dropped([*features, *given])
        cond = self.conditions_.encoded(given) if given and self.conditions_ is not None else None
        return self.reader_.read(features), cond

    def _refuse_dropped(self, raws: Sequence[Raw]) -> None:
        for one in raws if self.missing == "drop" else ():
            if one.missing.any():
                raise DataError(
                    f"X: column {one.title!r} is missing in {row(int(one.missing.argmax()))}, but missing='drop' leaves such rows out of "
                    "the fit alone; fill it in (see impute), or fit with missing='model'."
                )

    def _imputed(self, X: Any, y: Any, random_state: Any, fill: Fill) -> Any:
        """Return X as an array, or a DataFrame of the same columns and index, without missing values."""
        check_is_fitted(self)
        random = check_random_state(self.random_state if random_state is None else random_state)
        raws = self._raws(X, gaps=True)
        features, given = self._divided(raws, y)
        self._check_target(y)
        cond = self.conditions_.encoded(given) if given and self.conditions_ is not None else None
        x, gaps = fill(features, cond, int(random.randint(2**31 - 1)))
        schema = self.reader_.schema
        return written(as_pandas("X", X), schema, gaps, x) if is_frame(X) else written_to_array(raws, schema, gaps, x)

    def _given(self, n: int, given: Any, random: numpy.random.RandomState) -> tuple[Tensor | None, dict[str, numpy.ndarray]]:
        """Return the conditions of n samples, and their columns by name."""
        if self.conditions_ is None:
            if given is not None:
                raise ConditionError("given is a condition, but the model was fitted without; fit it with condition=, or leave given out.")
            return None, {}
        if given is None and self._needs_target and self.conditions_.classes:
            shares = self.conditions_.frequencies
            return torch.from_numpy(random.choice(len(shares), n, p=shares)), {}
        if given is None:
            names = ", ".join(self.conditions_.titles)
            raise ConditionError(f"given is None, but samples are conditional on {names}; give one row of these, or one for each sample.")
        cond, columns = self.conditions_.of(given, n)
        return cond, {} if self._needs_target else columns
