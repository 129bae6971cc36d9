"""Samples of tables for scikit-learn: models that are sampled from, whatever their density costs."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pushforward._checks import real, whole
from pushforward.data.raw import Names, Raw
from pushforward.data.tabulate import Missing
from pushforward.errors import NotInvertibleError
from pushforward.estimators.base import FlowEstimator
from pushforward.estimators.filling import gaps_of, without_gaps
from pushforward.estimators.fitting import held_out_rows, weights_of
from pushforward.estimators.members import data_of, trained
from pushforward.estimators.reading import shuffled
from pushforward.estimators.stacking import ROWS, drawn, moved, on
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.imputation import imputed
from pushforward.registry import export


@export("estimators.FlowSampler")
class FlowSampler(FlowEstimator):
    """Samples of the rows of a table, as an estimator of scikit-learn: for presets that have no density, or one that costs an ODE.

    X is read as by `FlowDensity`, and samples have the columns and types of the X that was fitted.

    Args:
        preset: name of a preset (`pushforward list models`): flow_matching, rectified_flow, ddpm, edm, meanflow, ...
        preset_options: keyword arguments of the preset, in place of those chosen by the size of the table.
        condition: None; "y" for samples given y, classes or numbers; names or numbers of columns of X that samples are given.
        categorical: names or numbers of columns of numbers that are categories.
        missing: "refuse" missing values, "drop" rows with some from the fit, or "model" them, so that samples have some.
        scales: scales of columns by name, "none", "log", "logit" or "quantile", in place of those chosen.
        dequantise: whether columns of integers have unit cells; otherwise they are taken for real numbers.
        max_steps: steps of training at most, or "auto".
        batch_size: rows of a step, or "auto".
        learning_rate: peak learning rate, or "auto".
        early_stopping: whether rows are held out, on which training ends early.
        validation_fraction: share of the rows held out, at most 10,000.
        patience: validations without improvement that end training.
        warm_start: whether `fit` continues with the model of the last call, whose columns it keeps.
        random_state: seed, or RandomState, of all random numbers.
        device: "cpu", "auto" for an accelerator if there is one, or the name of a device.
        verbose: whether progress is shown.

    Attributes:
        model_: the model, in the units of `reader_`.
        n_steps_: steps of its training.
        classes_: the classes, with condition="y" and classes in y.

    Raises:
        UserError: a parameter is not allowed; it is a ValueError.
        DataError: X cannot be read, or has too few rows.

    Example:
        >>> import numpy
        >>> X = numpy.random.RandomState(0).normal(size=(100, 2))
        >>> sampler = FlowSampler("rectified_flow", max_steps=5, random_state=0).fit(X)
        >>> sampler.sample(4, random_state=0).shape
        (4, 2)
    """

    result = "model_"

    def __init__(
        self,
        preset: str = "flow_matching",
        *,
        preset_options: Mapping[str, Any] | None = None,
        condition: Names = None,
        categorical: Names = None,
        missing: Missing = "refuse",
        scales: Mapping[str, str] | None = None,
        dequantise: bool = True,
        max_steps: int | Literal["auto"] = "auto",
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: float | Literal["auto"] = "auto",
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        patience: int = 10,
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.preset = preset
        self.preset_options = preset_options
        self.condition = condition
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

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "FlowSampler":
        """Fit the model to rows X (n, columns), with weights (n,) of their losses; y (n,) is only read with condition="y"."""
        start = weights_of(self.model_) if self.warm_start and hasattr(self, "model_") else None
        x, cond, weights, _ = self._read(X, y, sample_weight)
        seed = self._seed()
        everything = data_of(x, cond, self.reader_.model_schema, self.conditions_)
        held = held_out_rows(len(x), 1, self.validation_fraction, cond, seed)[0] if self.early_stopping else numpy.zeros(len(x), dtype=bool)
        seen, unseen = shuffled(~held, seed), numpy.flatnonzero(held).tolist()
        validation = everything.subset(unseen) if unseen else None
        own = (None, None) if weights is None else (weights[seen], weights[unseen])
        self.model_: GenerativeModel
        self.model_, self.n_steps_ = trained(self._plan(len(x)), everything.subset(seen), validation, seed, start, own)
        self._set_classes()
        return self

    def sample(self, n_samples: int = 1, random_state: Any = None, *, given: Any = None, sampler: Any = None, guidance: Any = None) -> Any:
        """Return n rows like those of X.

        Args:
            n_samples: number of rows.
            random_state: seed or RandomState; None is the estimator's own.
            given: the condition, one for all rows or one for each: a class, a row in the order of `condition`, a dictionary or DataFrame
                of columns; without it the classes of condition="y" are drawn by their frequencies.
            sampler: a sampler, such as `pushforward.samplers.Heun(20)`; None is the preset's.
            guidance: guidance by the condition, or its scale; the preset needs drop_cond above 0 in `preset_options`.
        """
        check_is_fitted(self)
        n = whole("n_samples", n_samples, 1)
        random = check_random_state(self.random_state if random_state is None else random_state)
        cond, columns = self._given(n, given, random)
        generator = torch.Generator().manual_seed(int(random.randint(2**31 - 1)))
        z = drawn(self.model_, n, cond, generator, self._device(), sampler=sampler, guidance=guidance)
        return self.layout_.rows({**self.reader_.values(z), **columns})

    def impute(self, X: Any, y: Any = None, random_state: Any = None, *, sampler: Any = None, noise: float = 0.02) -> Any:
        """Return X without missing values: each is drawn from the model given what is known of its row, as by `pushforward.impute`.

            x_missing ~ p(x_missing | x_known, c)

        Known cells stay as they are; repeat it with other random states for several imputations. Conditions cannot be missing.

        Args:
            X: an array or DataFrame like that of `fit`, NaN or None where a value is missing.
            y: the condition of each row, with condition="y".
            random_state: seed or RandomState; None is the estimator's own.
            sampler: a sampler, such as `pushforward.samplers.EulerMaruyama(100)`; None is one of 50 steps.
            noise: deviation with which known values are met during sampling, in units of a column's own deviation.

        Returns:
            An array in float64, or a DataFrame of the same columns and index.

        Raises:
            NotInvertibleError: the preset's model is not on a path from noise to data, as of meanflow or maf.
        """
        check_is_fitted(self)
        real("noise", noise, 0)
        model, reader, device = self.model_, self.reader_, self._device()
        if not isinstance(model, PathModel):
            raise NotInvertibleError(
                f"preset is {self.preset!r}, whose model is not on a path from noise to data and cannot fill in missing values; take "
                "flow_matching, rectified_flow or edm, or a FlowDensity."
            )

        def fill(raws: Sequence[Raw], cond: Tensor | None, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
            gaps, x = gaps_of(reader, raws), reader.read(without_gaps(reader, raws))
            z = reader.in_model(numpy.where(gaps, numpy.nan, x))

            def computed(model: Any, dtype: torch.dtype) -> Tensor:
                read = None if cond is None else moved(cond, device, dtype)
                generator = torch.Generator(device).manual_seed(seed)
                return imputed(model, z.to(dtype), read, sampler=sampler, noise=noise, generator=generator, batch_size=ROWS)

            made = reader.schema.rounded(reader.in_table(on(device, model, computed)))
            return numpy.where(gaps, made.numpy(), x), gaps

        return self._imputed(X, y, random_state, fill)
