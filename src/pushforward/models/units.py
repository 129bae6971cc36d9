"""The units that presets see data in: the bijection that `preprocess` names, and those of a table's columns."""

from collections.abc import Sequence
from typing import Literal, get_args

from pushforward.bijections.bijection import Bijection
from pushforward.bijections.centred import Centred
from pushforward.bijections.chain import Chain
from pushforward.bijections.squash import Logit
from pushforward.bijections.standardise import Standardise
from pushforward.bijections.table_units import TableUnits
from pushforward.bijections.whiten import Whiten
from pushforward.errors import UserError
from pushforward.functional.levels import Levels
from pushforward.schema import Schema

Preprocess = Literal["none", "standardise", "whiten", "logit", "centred"]
ImagePreprocess = Literal["auto", "none", "standardise", "logit"]


def units(preprocess: Preprocess, shape: Sequence[int], levels: Levels = None, schema: Schema | None = None) -> Bijection | None:
    """Return the bijection from the data's units to the model's: of a table those of its columns."""
    if preprocess not in get_args(Preprocess):
        raise UserError(f"preprocess is {preprocess!r}, but it is 'none', 'standardise', 'whiten', 'logit' or 'centred'.")
    if preprocess == "whiten" and len(shape) != 1:
        raise UserError(f"preprocess is 'whiten', but an event has shape {tuple(shape)}, and only vectors are whitened; use 'standardise'.")
    if schema is not None and schema.columns:
        if preprocess in ("logit", "centred"):
            raise UserError(
                f"preprocess is {preprocess!r}, but the columns of a table are on scales of their own; give scales= to data.load."
            )
        columns = TableUnits(schema.columns)
        return Chain([columns, Whiten(*shape)]) if preprocess == "whiten" else columns
    if preprocess == "logit":
        if not isinstance(levels, int):
            raise UserError(f"preprocess is 'logit', but levels is {levels}, so there is no one interval to spread; use 'standardise'.")
        return Logit(0.0, float(levels))
    if preprocess == "centred":
        if not isinstance(levels, int):
            raise UserError(f"preprocess is 'centred', but levels is {levels}, so there is no one range of levels; use 'standardise'.")
        return Centred(levels)
    if preprocess == "whiten":
        return Whiten(*shape)
    return Standardise(shape) if preprocess == "standardise" else None


def image_units(preprocess: ImagePreprocess, shape: Sequence[int], values: int | None) -> Bijection | None:
    """Return the bijection from the units of images to the model's; "auto" is the logit where data are quantised."""
    if preprocess not in ("auto", "none", "standardise", "logit"):
        raise UserError(f"preprocess is {preprocess!r}, but it is 'auto', 'none', 'standardise' or 'logit'.")
    if preprocess == "logit" and values is None:
        raise UserError("preprocess is 'logit', but values is None, so there is no interval to spread; give values=256 for 8-bit images.")
    if preprocess == "auto":
        preprocess = "standardise" if values is None else "logit"
    return units(preprocess, shape, values)
