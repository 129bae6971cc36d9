"""Shared argument checks: integers, numbers in a range, and outputs of the shape of their input."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import MISSING, fields
from inspect import Parameter
from types import UnionType
from typing import Any, Union, get_args, get_origin

import torch
from torch import Tensor

from pushforward.errors import ShapeError, UserError


def shown(value: Any) -> str:
    """Return a value as shown in messages: simple values by their repr, others by their type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None or isinstance(value, bool | numbers.Number | str):
        return repr(value)
    module = type(value).__module__.split(".")[0]
    return f"a {type(value).__name__}" if module == "builtins" else f"a {module}.{type(value).__name__}"


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer of Python, numpy or torch.compile; True and False are not."""
    return type(value) is int or (isinstance(value, numbers.Integral | torch.SymInt) and not isinstance(value, bool))


def whole(name: str, value: Any, least: int | None = None, most: int | None = None, hint: str = "") -> Any:
    """Return a value that is an integer in range, or raise an error.

    Raises:
        UserError: it is not an integer, or not from `least` to `most`.
    """
    end = f"; {hint}." if hint else "."
    if not is_whole(value):
        raise UserError(f"{name} is {shown(value)}, but it must be an integer{end}")
    if least is not None and value < least:
        raise UserError(f"{name} is {value}, but it must be at least {least}{end}")
    if most is not None and value > most:
        raise UserError(f"{name} is {value}, but it must be at most {most}{end}")
    return value


def sizes(**named: Any) -> None:
    """Raise unless each number is an integer of at least 1.

    Raises:
        UserError: one is not.
    """
    for name, value in named.items():
        whole(name, value, 1)


def sizes_of(name: str, values: Any, needed: str = "it must be a sequence of integers of at least 1") -> tuple[int, ...]:
    """Return a sequence of integers of at least 1, one or more, as a tuple, or raise an error.

    Raises:
        UserError: it is something else; the message states what is needed.
    """
    sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not sequence or not values or not all(is_whole(one) and one >= 1 for one in values):
        raise UserError(f"{name} is {tuple(values) if sequence else shown(values)}, but {needed}.")
    return tuple(values)


def share_of(name: str, value: Any) -> float:
    """Return a share from 0 to below 1, or raise an error.

    Raises:
        UserError: it is another number, or none.
    """
    if not is_real(value) or not 0 <= value < 1:
        raise UserError(f"{name} is {shown(value)}, but it is a share of units, from 0 to below 1; 0.2 is usual.")
    return float(value)


def widths_of(hidden: Any, network: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    """Return the widths of the hidden layers of a network, or raise an error.

    Raises:
        UserError: they are no sequence of integers of at least 1, or there are none.
    """
    return sizes_of("hidden", hidden, f"{network} needs at least one hidden layer of at least 1 unit; try {usual}")


def is_real(value: Any) -> bool:
    """Return whether a value is a finite number of Python or numpy."""
    try:
        return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


class CheckedNumbers:
    """The base of frozen settings (paths, samplers, grids, times, networks): numbers among the fields are checked when they are made.

    See `check_setting`.
    """

    def __post_init__(self) -> None:
        owner = type(self).__qualname__.rpartition("<locals>.")[2]
        for one in fields(self):  # type: ignore[arg-type]
            check_setting(owner, one.name, one.type, one.default, getattr(self, one.name))


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, or any other annotation as the only one."""
    if get_origin(annotation) in (Union, UnionType):
        return [one for part in get_args(annotation) for one in alternatives(part)]
    return [annotation]


def check_setting(owner: str, name: str, annotation: Any, default: Any, value: Any) -> None:
    """Check a number, or a sequence of numbers, against the annotation of the field or parameter that it is given for.

    One annotated as int takes integers, and as float finite numbers, or infinity where that is the default; as tuple[int, ...] or
    Sequence[int] it takes a sequence of them. One that may also be something else, such as a function, may be it.

    Raises:
        UserError: the value is of another type.
    """
    options = set(alternatives(annotation))
    sequences = {one for one in options if get_origin(one) in (tuple, Sequence)}
    plain, others = options & {int, float}, options - {int, float, type(None)} - sequences
    if not (plain or sequences) or (value is None and type(None) in options) or (others and not isinstance(value, numbers.Number)):
        return
    if (plain and isinstance(value, Tensor) and value.ndim == 0) or (others and not plain):
        return
    if sequences and getattr(value, "ndim", 0) == 1:  # an array or tensor
        value = value.tolist()
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if listed and any(_fits(value, get_args(one)) for one in sequences):
        return
    infinite = isinstance(value, float) and value == default == math.inf
    if not (float in plain and (is_real(value) or infinite)) and not (int in plain and is_whole(value)):
        given = tuple(value) if listed and sequences else shown(value)
        usual = "" if default is MISSING or default is Parameter.empty or value is default else f"; {default} is usual"
        raise UserError(f"{name} is {given}, but it must be {_needed(plain, sequences)} in {owner}{usual}.")


def _fits(values: Sequence[Any], members: tuple[Any, ...]) -> bool:
    """Whether a sequence has the members of tuple[...] or Sequence[...]: as many, and integers or finite numbers if they are these."""
    of, many = members[0], len(members) == 1 or members[1] is Ellipsis
    is_one = {int: is_whole, float: is_real}.get(of, lambda value: True)
    return (many or len(values) == len(members)) and all(map(is_one, values))


def _needed(plain: set[Any], sequences: set[Any]) -> str:
    number = ["a finite number"] if float in plain else ["an integer"] if plain else []
    return " or ".join([*number, *sorted(_sequence(get_args(one)) for one in sequences)])


def _sequence(members: tuple[Any, ...]) -> str:
    of = {int: "integers", float: "finite numbers"}.get(members[0])
    if len(members) > 1 and members[1] is not Ellipsis:
        return f"{len(members)} {of or 'values'}"
    return f"a sequence of {of}" if of else "a sequence"


def real(name: str, value: Any, least: float | None = None, hint: str = "") -> Any:
    """Return a value that is a finite number and not below `least`, or raise an error.

    Raises:
        UserError: it is not a number of Python or numpy, not finite, or below `least`.
    """
    end = f"; {hint}." if hint else "."
    if not is_real(value):
        raise UserError(f"{name} is {shown(value)}, but it must be a finite number{end}")
    if least is not None and value < least:
        raise UserError(f"{name} is {value}, but it must be at least {least:g}{end}")
    return value


def event_shape(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """Return the shape of one event as a tuple, or raise an error if it is invalid."""
    if not isinstance(shape, Sequence) or isinstance(shape, str) or not all(is_whole(side) and side > 0 for side in shape) or not shape:
        what = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else shown(shape)
        raise UserError(f"{name} is {what}, but an event has at least one positive dimension, such as (2,) or (1, 8, 8).")
    return tuple(shape)


def like_input(value: Any, x: Tensor, what: str = "the network") -> Tensor:
    """Return an output if it has the shape of its input x, or raise an error: another shape would broadcast, each row with all others.

    Raises:
        ShapeError: it has another shape, or is not a tensor.
    """
    if not isinstance(value, Tensor):
        raise ShapeError(f"{what} returned {shown(value)}, but it must return a tensor of x's shape {tuple(x.shape)}.")
    if value.shape != x.shape:
        raise ShapeError(
            f"{what} returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}, but it must return x's shape; reshape its output."
        )
    return value


def per_sample(value: Any, x: Tensor, what: str) -> Tensor:
    """Return a tensor with one number per sample (n,), or raise an error if its shape differs and would broadcast.

    Raises:
        ShapeError: it has another shape, or is not a tensor.
    """
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        raise ShapeError(f"{what} is {shown(value)}, but it must be one number per sample, of shape ({len(x)},); sum it over the event.")
    return value


def device_named(option: str, name: str | torch.device, index: int | None = None) -> torch.device:
    """Return the device with this name; "auto" is the machine's accelerator, or the CPU if there is none.

    Args:
        option: what messages call it.
        name: "auto", or a torch device or its name.
        index: index of the accelerator if the name has none: one for each process of a machine.

    Raises:
        UserError: this machine does not have it.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        name = "cpu" if accelerator is None else accelerator.type
    return usable_device(option, f"cuda:{index or 0}" if name == "cuda" else name)


def usable_device(option: str, name: str | torch.device) -> torch.device:
    """Return the device with this name.

    Raises:
        UserError: this machine does not have it.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise UserError(f"{option} is {str(name)!r}, which this machine does not have; `pushforward doctor` lists its devices.") from None
    return device
