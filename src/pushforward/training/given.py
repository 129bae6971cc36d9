"""What a Trainer is given to train and to validate on: checked once, before anything is computed."""

from collections.abc import Iterable
from typing import Any

import numpy
from torch import Tensor

from pushforward._checks import shown
from pushforward._pandas import is_frame
from pushforward.data.bucketed import groups_of
from pushforward.data.dataset import Dataset
from pushforward.data.gather import is_map_style, of_loader
from pushforward.data.given import check_columns, for_model
from pushforward.data.pairs import Pairs
from pushforward.errors import ConditionError, ShapeError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.training.order import as_batch, fetched
from pushforward.training.progress import Callback
from pushforward.training.settings import Settings


def as_dataset(data: Any, name: str, what: str, model: GenerativeModel) -> Any:
    """Return data as a map-style set; a tensor or array x (N, *shape), or a DataFrame, as a `Dataset`; of a loader its set.

    Args:
        data: what was given.
        name: the argument's name.
        what: what messages call it.
        model: what it must fit.

    Raises:
        ConditionError: it has no conditions, and the model was built for some.
        UserError: it is empty, no map-style set of tensors, or its examples have another shape than the model's.
    """
    data = of_loader(data)
    if is_frame(data):
        data = for_model(data, model, f"the {what}")
    if isinstance(data, Tensor | numpy.ndarray):
        if data.ndim and len(data) == 0:
            raise UserError(f"the {what} is empty; give at least one example.")
        data = Dataset("tensor" if isinstance(data, Tensor) else "array", data)
    if not is_map_style(data):
        raise UserError(
            f"{name} is {shown(data)}, but it must be a tensor or array (N, *shape), a DataFrame, a pushforward.data.Dataset, or a "
            "map-style set of (x, cond) with a length; an iterable is read into one of these first."
        )
    if len(data) == 0:
        raise UserError(f"the {what} is empty; give at least one example.")
    if groups_of(data) is not None and model.side_multiple is None:
        raise UserError(f"the {what} has examples of several shapes, but this model's are all {model.shape}; load it without buckets.")
    if isinstance(data, Dataset):
        shape = data.shape
        check_columns(data, model, f"the {what}")
        needs = model.conditioning and not model.drop_cond and not isinstance(data, Pairs)
        if needs and data.cond is None:  # pairs, and what a model with drop_cond sees, may be without conditions
            raise ConditionError(
                f"the {what} has no labels or other conditions, but the model needs {model.conditioning.rows(len(data))}; give them, or "
                "build the model without."
            )
    elif isinstance(data, list | tuple) or name != "data":  # others cost a read, and `initialise` looks at training data anyway
        if isinstance(data, list | tuple):
            example = data[0][0] if isinstance(data[0], tuple | list) and data[0] else data[0]
            if not isinstance(example, Tensor):
                raise UserError(f"{name}[0] is {shown(data[0])}, but an example is a tensor x, or (x, cond) with a tensor x; convert them.")
        shape = tuple(as_batch(fetched(data, [0]))[0].shape[1:])
    else:
        return data
    if shape != model.shape_with(shape[1:]):
        raise ShapeError(f"{name} has examples of shape {shape}, but the model's events have {model.shape}; reshape them.")
    return data


def check_trainable(model: GenerativeModel) -> None:
    """Refuse a model without a parameter that requires gradients.

    Raises:
        UserError: there is none.
    """
    if not any(p.requires_grad for p in model.parameters()):
        frozen = "its parameters are all frozen" if any(True for _ in model.parameters()) else "it has no parameters"
        raise UserError(f"the {type(model).__name__} has nothing to train: {frozen}; unfreeze some with requires_grad_(True), or add some.")


def check_augmented(data: Any, model: GenerativeModel, settings: Settings) -> None:
    """Raise if what belongs to the unmodified images, noise or an image as condition, would be left as it is when they are augmented.

    Raises:
        UserError: images are to be flipped or shifted, and there is such a thing, or they are latents.
    """
    reason = data.unaugmented if isinstance(data, Dataset) else ""
    if not reason and model.conditioning.cond_image is not None:
        reason = "the conditions are images, which belong to the unmodified ones"
    if reason and (settings.flip or settings.shift):
        raise UserError(f"flip or shift is on, but {reason}; switch them off.")


def checked_callbacks(callbacks: Any) -> list[Callback]:
    """Return callbacks as a list.

    Raises:
        UserError: they are no sequence of callbacks.
    """
    listed = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    wrong = [one for one in listed if not isinstance(one, Callback)]
    if wrong or not isinstance(callbacks, Iterable):
        shown_one = shown(wrong[0] if wrong else callbacks)
        raise UserError(f"callbacks holds {shown_one}, but it must be a list of subclasses of training.Callback; give [MyCallback()].")
    return listed
