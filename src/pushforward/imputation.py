"""Missing cells of a table, drawn from a model of its rows given what is known of each."""

from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward._checks import real, shown
from pushforward._pandas import as_pandas, is_frame, pandas_for
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.chain import Chain
from pushforward.bijections.standardise import Standardise
from pushforward.bijections.table_units import TableUnits
from pushforward.column import Column
from pushforward.data.given_columns import columns_by_name, encoded_columns
from pushforward.data.raw import Raw, by_title
from pushforward.data.raw_frame import columns_of
from pushforward.data.words import encoded
from pushforward.errors import DataError, NotInvertibleError, UserError
from pushforward.families.path_model import PathModel
from pushforward.guidance.loop import noise_share
from pushforward.guidance.measured import Units
from pushforward.guidance.mmps import MMPS
from pushforward.measurements.mask import Mask
from pushforward.paths.path import Path
from pushforward.registry import export
from pushforward.samplers.euler_maruyama import EulerMaruyama
from pushforward.samplers.grids import LogSNR, Uniform
from pushforward.samplers.sampler import Sampler
from pushforward.schema import Schema

TRIES = 20  # draws of a row whose category comes out as missing again
STEPS = 50  # of the sampler
NOISY = 0.3  # share of noise in the state from which one step to the data is too long
MOST = 50  # iterations of conjugate gradients


@export("impute")
def impute(
    model: PathModel,
    frame: Any,
    *,
    sampler: Sampler | None = None,
    noise: float = 0.02,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> Any:
    """Return a table without missing values: each is drawn from the model given what is known of its row.

    The rows are samples of the posterior by `guidance.MMPS`, which is exact for a model of Gaussian rows: repeat it with other generators
    for several imputations. Known cells stay as they are, also columns that the model does not have. Known integers and words are
    dequantised as in training. A label, or given columns, are the condition of its row; without a label, rows are drawn without.

    Args:
        model: a model on a path with a schema (`schema=` of a preset), such as `pf.load` returns of a run on a table.
        frame: a DataFrame with the columns of the schema, NaN or None where a value is missing.
        sampler: sampler from noise to data; None is EulerMaruyama(50), whose noise corrects errors of early steps, on the path of the heat
            equation with grid=LogSNR().
        noise: deviation with which known values are met during sampling, in units of a column's own deviation.
        generator: randomness.
        batch_size: rows per chunk; None is all.

    Returns:
        A DataFrame of the same columns and index.

    Raises:
        UserError: the model has no schema, or no path.
        DataError: a column is missing, or a value of a condition; or a known value is none of the column's words or beyond the end of its
            scale.

    Example:
        >>> import pandas
        >>> from pushforward import data
        >>> schema = data.Schema((data.Column("height"), data.Column("colour", "category", words=("blue", "red"))))
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), schema=schema)
        >>> rows = pandas.DataFrame({"height": [1.5, None, 1.7], "colour": ["blue", "red", None]})
        >>> filled = pf.impute(model, rows, generator=torch.Generator().manual_seed(0))
        >>> int(filled.isna().sum().sum()), str(filled["height"][2]), filled["colour"][1]
        (0, '1.7', 'red')
    """
    schema = _schema_of(model)
    if not is_frame(frame):
        raise UserError(f"frame is {shown(frame)}, but it is a DataFrame with the columns of the model's table.")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise UserError(f"generator is {shown(generator)}, but here it is one torch.Generator, or None.")
    real("noise", noise, 0)
    frame = as_pandas("frame", frame)
    known = by_title("frame", columns_of("frame", frame))
    x, cond = _features(schema, known), _cond(model, schema, known)
    filled = imputed(model, x.to(model.dtype), cond, sampler=sampler, noise=noise, generator=generator, batch_size=batch_size)
    return written(frame, schema, x.isnan().numpy(), filled)


def imputed(
    model: PathModel,
    x: Tensor,
    cond: Tensor | None,
    *,
    sampler: Sampler | None,
    noise: float,
    generator: torch.Generator | None,
    batch_size: int | None = None,
) -> Tensor:
    """Return rows x (n, columns) in the units of the model's schema, each NaN drawn given what is known of its row, as `impute` does."""
    schema = _schema_of(model)
    values = _checked_values(model, schema, x)
    sampler = sampler or _stochastic(model.path)
    gaps = x.isnan()
    filled, left = x.clone(), gaps.any(1).nonzero()[:, 0]
    for _ in range(TRIES):
        if not len(left):
            break
        guidance = _guidance(model, x[left], values[left], noise, generator)
        one = None if cond is None else cond[left].to(model.units.like.device)
        draw = None if generator is None else [generator]  # the draws of all rows together, however they are cut into chunks
        made = model.sample(len(left), one, guidance=guidance, sampler=sampler, generator=draw, batch_size=batch_size)
        filled[left] = torch.where(gaps[left], schema.rounded(made.cpu()).to(filled), x[left])
        left = left[_missing_again(schema, filled[left])]
    if len(left):
        raise UserError(f"the model draws missing values again for {len(left)} rows; train it on rows with fewer missing words.")
    return filled


def _stochastic(path: Path) -> Sampler:
    """Return a stochastic sampler for a path: equal steps in t, or in the logarithm of the noise if the last would begin in much of it."""
    low, high = path.interval
    last = torch.tensor([low + (high - low) / STEPS], dtype=torch.float64)
    return EulerMaruyama(STEPS, grid=LogSNR() if float(noise_share(path, last)) > NOISY else Uniform())


def _schema_of(model: Any) -> Schema:
    schema = getattr(model, "schema", None)
    if not isinstance(schema, Schema) or not schema.columns:
        raise UserError(f"model is {shown(model)} without a table's schema; build it with schema=data.schema, or load a run on a table.")
    if not isinstance(model, PathModel):
        raise NotInvertibleError(f"{type(model).__name__} is no model on a path from noise to data; use flow_matching, edm or another.")
    return schema


def _features(schema: Schema, known: dict[str, Raw]) -> Tensor:
    """Return what is known of each row (n, columns), NaN where nothing is; a mark of missing values is 0, as none shall be."""
    features = []
    for column in schema.columns:
        title = column.of if column.kind == "missing" else column.title
        if title not in known:
            raise DataError(f"frame has no column {title!r}, which the model has; add it, with NaN to have it filled in.")
        features.append(_feature(column, known[title]))
    return torch.from_numpy(numpy.column_stack(features))


def _feature(column: Column, raw: Raw) -> numpy.ndarray:
    if raw.problem:
        raise DataError(f"frame: column {column.title!r} {raw.problem}.")
    gaps, made = raw.missing, numpy.full(len(raw.values), numpy.nan)
    if column.kind == "missing":
        return numpy.zeros(len(gaps))
    if gaps.all():
        return made
    if column.kind == "category":
        made[~gaps] = encoded("frame", raw.rows(~gaps), column, lambda k: f"row {numpy.flatnonzero(~gaps)[k]} (counted from 0)")
        return made
    if raw.values.dtype == object:
        raise DataError(f"frame: column {column.title!r} holds words, but it is {column.kind} in the schema; convert it.")
    return raw.values


def _cond(model: PathModel, schema: Schema, known: dict[str, Raw]) -> Tensor | None:
    if schema.given:
        raws = columns_by_name("frame", known, schema.given)
        vectors = encoded_columns("frame", raws, schema.given, lambda k: f"row {k} (counted from 0)")
        return torch.from_numpy(vectors).to(model.dtype)
    if schema.label is None or model.classes is None or schema.label.title not in known:
        return None
    raw = known[schema.label.title]
    if raw.missing.any() and None not in schema.label.words:
        k = int(raw.missing.argmax())
        raise DataError(f"frame: the label {raw.title!r} is missing in row {k} (counted from 0), but it is a condition; fill it in.")
    return torch.from_numpy(encoded("frame", raw, schema.label, lambda k: f"row {k} (counted from 0)")).long()


def _checked_values(model: PathModel, schema: Schema, x: Tensor) -> Tensor:
    """Return x with some value within the scale of its column where nothing is known, after checking the known ones."""
    inside = model._from_model(torch.zeros(1, x.shape[1]).to(model.units.like)).to(x)
    values = torch.where(x.isnan(), inside, x)
    columns, _ = _parts(model.preprocess)
    if columns is not None:
        outside = ~columns(values.to(model.units.like))[0].isfinite()
        if bool(outside.any()):
            row, k = (int(place) for place in outside.nonzero()[0])
            column = schema.columns[k]
            raise DataError(
                f"frame: row {row} (counted from 0), column {column.title!r} is {float(values[row, k]):g}, which is beyond the end of its "
                f"{column.scale} scale in the model; correct it, or remove it to have it filled in."
            )
    return values


def _parts(preprocess: Bijection | None) -> tuple[Bijection | None, Bijection | None]:
    """Return the part of a model's units with one map for each column, and the part after it that mixes columns."""
    steps = list(preprocess.steps) if isinstance(preprocess, Chain) else [] if preprocess is None else [preprocess]
    apart = steps.pop(0) if steps and isinstance(steps[0], TableUnits | Standardise) else None
    return apart, Chain(steps) if steps else None


def _guidance(model: PathModel, x: Tensor, values: Tensor, noise: float, generator: torch.Generator | None) -> MMPS:
    """Return guidance by what is known of each row, dequantised, in units in which each column is apart from the others."""
    units, (columns, mixing) = model.units, _parts(model.preprocess)
    values, _ = model.dequantised(values.to(units.like), generator)
    values = values if columns is None else columns(values)[0]
    scale: float | Tensor = noise
    if mixing is not None:
        unit = torch.eye(x.shape[1]).to(values)  # it is affine: these are the columns of its matrix
        scale = noise * (mixing.push(unit) - mixing.push(0 * unit)).square().sum(0).sqrt()
    to_user: Callable[[Tensor], Tensor] = torch.clone if mixing is None else mixing.push
    y = torch.where(x.isnan().to(values.device), torch.nan, values)
    guidance = MMPS(Mask(noise=scale), y, iterations=min(MOST, y.shape[1]))
    return guidance.on_model(model, Units(to_user, units.shape, units.like))


def _missing_again(schema: Schema, filled: Tensor) -> Tensor:
    """Return which rows (n,) hold the word None."""
    wrong = torch.zeros(len(filled), dtype=torch.bool)
    for k, column in enumerate(schema.columns):
        if None in column.words:
            wrong |= filled[:, k] == column.words.index(None)
    return wrong


def written(frame: Any, schema: Schema, gaps: numpy.ndarray, filled: Tensor | numpy.ndarray) -> Any:
    """Return a copy of the frame with the filled cells, which `gaps` (n, columns) marks."""
    table, made = schema.table(torch.as_tensor(filled)), frame.copy()
    for k, column in enumerate(schema.columns):
        rows = gaps[:, k]
        if column.kind != "missing" and rows.any():
            place = list(map(str, made.columns)).index(column.title)
            values = made.iloc[:, place].astype(object)
            values[rows] = table[column.title][rows]
            made[made.columns[place]] = values.astype(_holding(frame.dtypes.iloc[place], table[column.title][rows]))
    return made


def _holding(dtype: Any, drawn: numpy.ndarray) -> Any:
    """Return the type of a column of a DataFrame, or one that also holds what is drawn: more categories, more bytes of a number."""
    categorical = pandas_for("a DataFrame").CategoricalDtype
    stored = getattr(dtype, "numpy_dtype", dtype)  # of types with missing values of their own, such as Int8
    if isinstance(stored, numpy.dtype) and stored.kind in "iuf":
        limits = numpy.finfo(stored) if stored.kind == "f" else numpy.iinfo(stored)
        values = drawn.astype(numpy.float64)
        holds = limits.min <= values.min() and values.max() <= limits.max
        return dtype if holds else "float64" if stored.kind == "f" else "Int64"
    if not isinstance(dtype, categorical):
        return dtype
    lacking = [one for one in dict.fromkeys(drawn.tolist()) if one not in dtype.categories]
    return categorical([*dtype.categories, *lacking], dtype.ordered) if lacking else dtype
