"""A density of tables for scikit-learn: likelihoods, samples and outliers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy
import torch
from sklearn.base import OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pushforward import registry
from pushforward._checks import is_real, shown, whole
from pushforward._pandas import as_pandas, is_frame
from pushforward.data.raw import Names, Raw
from pushforward.data.tabulate import Missing
from pushforward.errors import DataError, NotInvertibleError, UserError
from pushforward.estimators.base import FlowEstimator
from pushforward.estimators.filling import filled_in
from pushforward.estimators.fitting import FLOW, Fitted, fitted, held_out_rows, mean_of
from pushforward.estimators.members import built, data_of
from pushforward.estimators.stacking import Stacked
from pushforward.estimators.weights import quantile
from pushforward.evaluation.outliers import OutlierScores, Score
from pushforward.registry import export
from pushforward.training.validation import SMALL

FALSE_ALARMS = 0.05  # share of held-out rows below the offset, with contamination "auto"
FEW, MEMBERS = 2000, 3  # rows below which there are several members, and their number


@export("estimators.FlowDensity")
class FlowDensity(OutlierMixin, FlowEstimator):
    """The density of the rows of a table, as an estimator of scikit-learn: log-densities, samples, outliers.

        p(x | c) = sum_k w_k mean_m p_km(x | c),    k in flow, gaussian, gaussian_mixture

    Each of several members m (one from 2,000 rows on) is a flow, a Gaussian and a mixture of Gaussians fitted without a part of the rows of
    its own, on which the flow's training ends early and the others are regularised. The weights w maximise the likelihood of the rows that
    members have not seen, so that where a flow is no better than a mixture, the mixture counts. Outside the flow's scales the
    Gaussians still give a density, so that a log-density is finite.

    X is an array or a DataFrame. Columns of a DataFrame that hold words, bool or categories are categories; columns of integers have unit
    cells, and a log-density is then the mean over points of the cell, a lower bound of the log-probability of the row; dates are refused.
    Log-densities are in nats, in the units of X. Samples have the columns and types of the X that was fitted.

    Args:
        preset: name of a preset with a density (`pushforward list models`): nsf, maf, realnvp, ... are exact in one pass; those of
            ODEs, such as flow_matching and ffjord, solve one for each row. "auto" is maf below 10,000 rows, otherwise nsf.
        preset_options: keyword arguments of the preset, in place of those chosen by the size of the table.
        condition: None for p(x); "y" for p(x | y), classes or numbers; names or numbers of columns of X for p(other columns | these).
        ensemble: number of members, or "auto": 3 below 2,000 rows, otherwise 1.
        gaussians: whether Gaussians and mixtures of them are members, too.
        contamination: share of the training rows that `predict` takes for outliers, above 0 and at most 0.5; with "auto" its threshold is
            what 5 % of held-out rows are below.
        outliers: what `predict` judges by: "likelihood", as a low density is unusual, or "typicality", by which one that is too high is,
            too: the distance of log p from its mean over held-out rows.
        categorical: names or numbers of columns of numbers that are categories.
        missing: "refuse" missing values; "drop" rows with some from the fit; or "model" them: a category gets one more word, another
            column a mark, and a log-density is a mean over values in its place. `impute` fills them in with each of the three.
        scales: scales of columns by name, "none", "log", "logit" or "quantile", in place of those chosen.
        dequantise: whether columns of integers have unit cells; otherwise they are taken for real numbers.
        max_steps: steps of training at most, or "auto": 1,000 below 10,000 rows, 1,200 below 100,000, otherwise 4,000.
        batch_size: rows of a step, or "auto".
        learning_rate: peak learning rate, or "auto".
        early_stopping: whether rows are held out; otherwise one flow is trained on all of them for `max_steps`, without Gaussians.
        validation_fraction: share of the rows held out for a single member, at most 10,000.
        patience: validations without improvement that end the training of a flow.
        warm_start: whether `fit` continues with the flows of the last call, whose columns it keeps.
        random_state: seed, or RandomState, of all random numbers.
        device: "cpu", "auto" for an accelerator if there is one, or the name of a device.
        verbose: whether progress is shown.

    Attributes:
        weights_: weight of each kind, by name.
        density_: the members.
        held_out_score_: mean log-density of held-out rows by members that had not seen them, None without early stopping.
        entropy_: minus the mean log-density of held-out rows, or of all rows without early stopping, in nats.
        offset_: the log-density, or with outliers="typicality" minus the distance |log p + entropy_|, below which `predict` returns -1.
        n_steps_: steps of each flow.
        classes_: the classes, with condition="y" and classes in y.

    Raises:
        UserError: a parameter is not allowed; it is a ValueError.
        DataError: X cannot be read, or has too few rows.

    Example:
        >>> import numpy
        >>> X = numpy.random.RandomState(0).normal(size=(100, 2))
        >>> density = FlowDensity(max_steps=5, random_state=0).fit(X)
        >>> density.score_samples(X[:3]).shape, density.sample(4, random_state=0).shape, density.predict([[9.0, 9.0]])
        ((3,), (4, 2), array([-1]))

    Source: Smyth and Wolpert, Stacked density estimation, 1997 (the weights).
    """

    choices = ("auto",)
    result = "density_"

    def __init__(
        self,
        preset: str = "auto",
        *,
        preset_options: Mapping[str, Any] | None = None,
        condition: Names = None,
        ensemble: int | Literal["auto"] = "auto",
        gaussians: bool = True,
        contamination: float | Literal["auto"] = "auto",
        outliers: Score = "likelihood",
        categorical: Names = None,
        missing: Missing = "refuse",
        scales: Mapping[str, str] | None = None,
        dequantise: bool = True,
        max_steps: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: float | Literal["auto"] = "auto",
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        patience: int = 10,
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.preset = preset
        self.preset_options = preset_options
        self.condition = condition
        self.ensemble = ensemble
        self.gaussians = gaussians
        self.contamination = contamination
        self.outliers = outliers
        self.categorical = categorical
        self.missing = missing
        self.scales = scales
        self.dequantise = dequantise
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "FlowDensity":
        """Fit the density to rows.

        Args:
            X: rows (n, columns), an array or DataFrame.
            y: the condition (n,) of each row, only read with condition="y".
            sample_weight: weight (n,) of each row, 0 or more: of its loss, and of its share of what is held out. A weight of 2 counts like
                the same row twice; where a table repeats rows of real numbers, they are taken together in this way.
        """
        start = self.density_.members[FLOW] if self.warm_start and hasattr(self, "density_") else []
        x, cond, weights, kept = self._read(X, y, sample_weight)
        seed, plan = self._seed(), self._plan(len(x))
        self._check_density(x, cond)
        members = self._members(len(x)) if self.early_stopping else 1
        if start and len(start) != members:
            raise UserError(f"warm_start is True, but there are {len(start)} members and now {members}; give ensemble={len(start)}.")
        held = held_out_rows(len(x), members, self.validation_fraction, cond, seed) if self.early_stopping else []
        found = fitted(plan, x, cond, self.reader_, self.conditions_, held, bool(self.gaussians), seed, start, weights)
        self.density_: Stacked = found.density
        self.weights_, self.n_steps_ = dict(found.density.weights), found.steps
        self.held_out_score_ = found.score
        self._set_classes()
        self._set_offset(X, y, found, weights, kept)
        return self

    def score_samples(self, X: Any, y: Any = None) -> numpy.ndarray:
        """Return the log-density (n,) of each row, in nats; with condition="y" given y, or without it the mean over its classes."""
        x, cond = self._of_rows(X, y)
        return self._log_density(x, cond)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log-density of rows, in nats: higher is better, as in a grid search."""
        return float(self.score_samples(X, y).mean())

    def decision_function(self, X: Any, y: Any = None) -> numpy.ndarray:
        """Return the log-density (n,) of each row, or minus its distance from the typical one, less the offset: negative is an outlier."""
        check_is_fitted(self)
        self._check_target(y)
        difference: numpy.ndarray = self._normality(self.score_samples(X, y)) - self.offset_
        return difference

    def predict(self, X: Any, y: Any = None) -> numpy.ndarray:
        """Return 1 for each row (n,), or -1 for an outlier: one whose decision function is negative."""
        return numpy.where(self.decision_function(X, y) >= 0, 1, -1)

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> numpy.ndarray:
        """Fit the density to rows, and return 1 for each (n,), or -1 for an outlier."""
        return self.fit(X, y, sample_weight).predict(X, y)

    def sample(self, n_samples: int = 1, random_state: Any = None, *, given: Any = None) -> Any:
        """Return n rows like those of X.

        Args:
            n_samples: number of rows.
            random_state: seed or RandomState; None is the estimator's own.
            given: the condition, one for all rows or one for each: a class, a row in the order of `condition`, a dictionary or DataFrame
                of columns; without it the classes of condition="y" are drawn by their frequencies.
        """
        check_is_fitted(self)
        n = whole("n_samples", n_samples, 1)
        random = check_random_state(self.random_state if random_state is None else random_state)
        cond, columns = self._given(n, given, random)
        z = self.density_.sample(n, cond, int(random.randint(2**31 - 1)), self._device())
        return self.layout_.rows({**self.reader_.values(z), **columns})

    def impute(self, X: Any, y: Any = None, random_state: Any = None) -> Any:
        """Return X without missing values: each is drawn from the density given what is known of its row.

            x_missing ~ p(x_missing | x_known, c)

        The draws end Markov chains of 200 evaluations of the density for each row; repeat it with other random states for several
        imputations. Known cells stay as they are. Conditions cannot be missing.

        Args:
            X: an array or DataFrame like that of `fit`, NaN or None where a value is missing.
            y: the condition of each row, with condition="y".
            random_state: seed or RandomState; None is the estimator's own.

        Returns:
            An array in float64, or a DataFrame of the same columns and index.
        """

        def fill(raws: Sequence[Raw], cond: Tensor | None, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
            return filled_in(self.density_, self.reader_, raws, cond, seed, self._device())

        return self._imputed(X, y, random_state, fill)

    def _log_density(self, x: numpy.ndarray, cond: Tensor | None) -> numpy.ndarray:
        conditions, device, of_classes = self.conditions_, self._device(), cond is None and self.conditions_ is not None
        parts = []
        for z in self.reader_.draws(x):
            if conditions is None or not of_classes:
                parts.append(self.density_.log_prob(z, cond, device))
                continue
            if not conditions.classes:
                self._check_target(None)
            shares = torch.tensor(conditions.frequencies, dtype=torch.float64).log()
            each = [self.density_.log_prob(z, torch.full((len(z),), k), device) for k in range(conditions.classes)]
            parts.append((torch.stack(each) + shares[:, None]).logsumexp(0))
        value: numpy.ndarray = (torch.stack(parts).mean(0) - self.reader_.log_volume).numpy()
        return value

    def _normality(self, scores: numpy.ndarray) -> numpy.ndarray:
        """Return how usual rows (n,) are, given their log-densities."""
        if self.outliers == "likelihood":
            return scores
        return -OutlierScores(torch.from_numpy(-scores), self.entropy_).typicality.numpy()

    def _set_offset(self, X: Any, y: Any, found: Fitted, weights: Tensor | None, kept: numpy.ndarray) -> None:
        usual, own, share = found.held_out, found.held_out_weights, FALSE_ALARMS
        if usual is None or self.contamination != "auto":
            rows = as_pandas("X", X).iloc[kept] if is_frame(X) else numpy.asarray(X)[kept]
            usual, own = torch.from_numpy(self.score_samples(rows, None if y is None else numpy.asarray(y)[kept])), weights
            share = FALSE_ALARMS if self.contamination == "auto" else float(self.contamination)
        self.entropy_ = -(mean_of(usual, own) if found.held_out is None else mean_of(found.held_out, found.held_out_weights))
        self.offset_ = quantile(self._normality(usual.numpy()), share, None if own is None else own.numpy())

    def _preset(self, n: int) -> str:
        return ("maf" if n < SMALL else "nsf") if self.preset == "auto" else self.preset

    def _members(self, n: int) -> int:
        return int((MEMBERS if n < FEW else 1) if self.ensemble == "auto" else self.ensemble)

    def _check_options(self) -> None:
        super()._check_options()
        if self.ensemble != "auto":
            whole("ensemble", self.ensemble, 1, hint="it is the number of flows, or 'auto'")
        if self.contamination != "auto" and (not is_real(self.contamination) or not 0 < self.contamination <= 0.5):
            raise UserError(
                f"contamination is {shown(self.contamination)}, but it is a share of the rows above 0 and at most 0.5, or 'auto'."
            )
        if self.outliers not in get_args(Score):
            raise UserError(f"outliers: {registry.unknown('score', str(self.outliers), get_args(Score))}")

    def _check_density(self, x: Tensor, cond: Tensor | None) -> None:
        """Raise before training if the rows do not suffice for the members, or the preset has no density."""
        members = self._members(len(x))
        if 2 * members > len(x):
            raise DataError(f"X has {len(x)} rows, but ensemble={members} holds out at least 2 for each member; give more rows.")
        with torch.random.fork_rng([]):
            model = built(
                self._plan(len(x)), data_of(x[:2], None if cond is None else cond[:2], self.reader_.model_schema, self.conditions_)
            )
        if "log_prob" not in model.verbs:
            raise NotInvertibleError(
                f"preset is {self._preset(len(x))!r}, which has no density; use nsf or maf, or FlowSampler for its samples."
            )
