"""Argument checks of all methods of all families: states, conditions and numbers that do not fit the model."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pushforward._checks import is_real, shown, whole
from pushforward.errors import ConditionError, DtypeError, ShapeError, SolverError, UserError
from pushforward.functional.levels import Levels


def class_count(classes: Any) -> int | None:
    """Return the number of classes, or raise an error if it is invalid."""
    return None if classes is None else int(whole("classes", classes, 1, hint="None is a model without labels"))


def level_counts(levels: Any, shape: tuple[int, ...]) -> Levels:
    """Return the number of levels, or one entry per column, or raise an error if it is neither."""
    if levels is None:
        return None
    hint = "leave it out for continuous data"
    if not isinstance(levels, list | tuple):
        return int(whole("levels", levels, 2, hint=hint))
    for k, one in enumerate(levels):
        if isinstance(one, tuple | list):
            if len(one) != 2 or whole(f"levels[{k}]", one[0]) > whole(f"levels[{k}]", one[1]):
                raise UserError(f"levels[{k}] is {tuple(one)}, but a column of integers has (lowest, highest), such as (18, 80).")
        elif one is not None:
            whole(f"levels[{k}]", one, 2, hint="use None for continuous columns")
    if shape != (len(levels),):
        raise ShapeError(f"levels is {levels}, one entry per column, but an event has shape {shape}; give ({len(levels)},).")
    return tuple(tuple(one) if isinstance(one, list) else one for one in levels)


def checked_temperature(temperature: Any) -> float:
    """Return a temperature, or raise an error if it is invalid."""
    if not is_real(temperature) or not temperature > 0:
        what = f"{temperature}" if isinstance(temperature, numbers.Real) else shown(temperature)
        raise UserError(f"temperature is {what}, but it must be positive; 1 is the model's own distribution.")
    return float(temperature)


def check_states(x: Any, name: str, model: Any, n: int | None = None, shape: tuple[int, ...] | None = None) -> None:
    """Raise an error for states without the event's shape (or another one), the model's dtype, its device, or n rows."""
    shape = model.shape if shape is None else shape
    if not isinstance(x, Tensor):
        raise UserError(f"{name} is {shown(x)}, but it must be a tensor; use torch.as_tensor({name}, dtype={model.dtype}).")
    if x.layout is not torch.strided:
        raise UserError(f"{name} has layout {x.layout}, but it must be an ordinary tensor; use {name}.to_dense().")
    if tuple(x.shape[1:]) != shape or x.ndim == 0 or (n is not None and x.shape[0] != n):
        rows = "n" if n is None else n
        raise ShapeError(f"{name} has shape {tuple(x.shape)}, but this model needs ({', '.join(map(str, (rows, *shape)))}); reshape it.")
    if x.dtype != model.dtype:
        other = f" or model.to({x.dtype})" if x.is_floating_point() else ""
        raise DtypeError(f"{name} is {x.dtype}, but the model's parameters are {model.dtype}; use {name}.to({model.dtype}){other}.")
    elsewhere = other_device(x, model)
    if elsewhere is not None:
        raise UserError(f"{name} is on {x.device}, but the model is on {elsewhere}; use {name}.to({str(elsewhere)!r}).")


def checked_cond(cond: Any, n: int, model: Any, look: bool = True) -> Any:
    """Return a condition of n rows, labels as int64 and images as real numbers, or raise an error if it is invalid for this model."""
    kind = model.conditioning
    if cond is None:
        if kind.shape is not None and not model.drop_cond:
            raise ConditionError(
                f"cond is None, but this model needs {kind.rows(n)}, one per row; only a model trained with drop_cond does without."
            )
        return None
    if isinstance(cond, list | tuple | dict):
        needed = f"{kind.rows(n)}" if kind else f"a tensor, or a record of tensors such as TextContext, ({n}, ...)"
        raise ConditionError(f"cond is {type(cond).__name__}, but this model needs {needed}, one per sample: torch.as_tensor.")
    for leaf in (cond,) if isinstance(cond, Tensor) else tree_leaves(cond):
        if isinstance(leaf, Tensor):
            if leaf.ndim == 0 or leaf.shape[0] != n:
                raise ConditionError(f"cond has shape {tuple(leaf.shape)}, but its leading dimension must be {n}, one row per sample.")
            elsewhere = other_device(leaf, model)
            if elsewhere is not None:
                raise ConditionError(f"cond is on {leaf.device}, but the model is on {elsewhere}; use cond.to({str(elsewhere)!r}).")
        elif isinstance(leaf, numbers.Number | str) or hasattr(leaf, "__array__"):
            needed = kind.rows(n) if kind else f"a tensor or a record of tensors ({n}, ...)"
            raise ConditionError(
                f"cond is {type(cond).__name__}, but this model needs {needed}, one per sample; use torch.as_tensor(cond)."
            )
    look = look and not torch.compiler.is_compiling()
    if kind.shape is not None:
        return _checked_numbers(cond, n, model, look)
    return cond if model.classes is None else _checked_labels(cond, n, model.classes, look)


def _checked_labels(cond: Any, n: int, classes: int, look: bool) -> Tensor:
    if not isinstance(cond, Tensor) or cond.ndim != 1 or cond.is_floating_point() or cond.is_complex() or cond.dtype == torch.bool:
        what = f"{cond.dtype} of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else type(cond).__name__
        raise ConditionError(f"cond is {what}, but this model needs integer labels ({n},) from 0 to {classes - 1}.")
    cond = cond.long()
    low, high = cond.aminmax() if look and n else (0, 0)  # a third of the time of a comparison of each
    if int(low) < 0 or int(high) >= classes:
        row = int(((cond < 0) | (cond >= classes)).nonzero()[0, 0])
        raise ConditionError(f"cond[{row}] is {int(cond[row])}, but labels go from 0 to {classes - 1}; use cond=None for no condition.")
    return cond


def _checked_numbers(cond: Any, n: int, model: Any, look: bool) -> Tensor:
    if model.cond_image is not None and isinstance(cond, Tensor) and not cond.is_floating_point() and not cond.is_complex():
        cond = cond.to(model.dtype)  # masks and pixels
    model.conditioning.check(cond, n, model.dtype)
    row = row_not_finite(cond) if look and n else None
    if row is not None:
        raise ConditionError(f"cond[{row}] is not finite, but a condition needs numbers; use cond=None for no condition.")
    checked: Tensor = cond
    return checked


def other_device(x: Tensor, model: nn.Module) -> torch.device | None:
    """Return the model's device if x is on another one, else None; also None if the parameters are on several devices or on meta."""
    first = first_floating(model)
    if first is None or first.device == x.device or first.device.type == "meta":
        return None
    return first.device if all(p.device == first.device for p in model.parameters()) else None


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a model: that of its first floating-point parameter or buffer, or the CPU if it has none."""
    first = first_floating(module)
    return torch.device("cpu") if first is None else first.device


def first_floating(module: nn.Module) -> Tensor | None:
    """Return the first floating-point parameter of a module, else the first such buffer; torch's iterators take ten times as long."""
    found = _first(module, "_parameters")
    return _first(module, "_buffers") if found is None else found


def _first(module: nn.Module, kind: str) -> Tensor | None:
    state = module.__dict__
    for one in state[kind].values():
        if one is not None and one.is_floating_point():
            return one
    for child in state["_modules"].values():
        found = None if child is None else _first(child, kind)
        if found is not None:
            return found
    return None


def row_not_finite(x: Tensor) -> int | None:
    """Return the first row of x (n, ...) that is not finite, or None."""
    if math.isfinite(x.sum().item()):  # a tenth of the time of a check of each element
        return None
    finite = x.flatten(1).isfinite().all(1)
    return None if bool(finite.all()) else int((~finite).nonzero()[0, 0])


def check_finite(x: Tensor, start: int, sampler: Any) -> None:
    """Raise an error if a sample is not finite; the first row has index `start`."""
    row = row_not_finite(x)
    if row is not None:
        raise SolverError(
            f"sample {start + row} is not finite: the network returned NaN, or the steps of {sampler} are too few; take more of them, or "
            "Dopri5(), which names the time."
        )


def misfit(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return how names and shapes of given weights differ from a model's own, the first of each kind, or '' if none differs."""
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    parts = [f"{len(keys)} {what} (first {keys[0]})" for what, keys in (("missing", missing), ("unknown", extra)) if keys]
    for key in sorted(own.keys() & given.keys()):
        mine, other = (getattr(one[key], "shape", None) for one in (own, given))
        if mine != other and mine is not None and other is not None:
            return "; ".join([*parts, f"{key} is {tuple(other)}, the model's is {tuple(mine)}"])
    return "; ".join(parts)


def check_unconditional(guidance: Any, model: Any) -> None:
    """Raise an error for guidance with an untrained unconditional model: the null row of the embedding is still at its initial value.

    Raises:
        ConditionError: guidance has no negative condition, and training never dropped the model's labels.
    """
    if guidance is None or not guidance.needs_unconditional or not model.conditioning or model.drop_cond:
        return
    if any(getattr(one, "conditional", False) for network in model.networks() for one in network.modules()):
        raise ConditionError(
            f"guidance is {guidance}, but drop_cond is 0, so no training without conditions gave it what to move away from; train with "
            "drop_cond=0.1, or give CFG(scale, negative=cond). (Set model.drop_cond if your own training left conditions out.)"
        )
