"""The optimiser's state in checkpoints: whole, or without the moments, which are files of shards; any model reads either form."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.errors import CheckpointError
from pushforward.formats.shards import read_shards, stored_shards
from pushforward.training.shards import is_sharded, part_of


def named_moments(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the sharded tensors of an optimiser's state, as NAME.exp_avg and NAME.exp_avg_sq."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}.{key}": value
        for p, own in optimiser.state.items()
        for key, value in own.items()
        if isinstance(value, Tensor) and is_sharded(value)
    }


def without_moments(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a copy of an optimiser's state without its sharded tensors."""
    whole = optimiser.state_dict()
    kept = {
        k: {key: one for key, one in own.items() if not (isinstance(one, Tensor) and is_sharded(one))} for k, own in whole["state"].items()
    }
    return copy.deepcopy({**whole, "state": kept})


def with_moments(state: Mapping[str, Any], optimiser: torch.optim.Optimizer, model: nn.Module, folder: Path) -> dict[str, Any]:
    """Return an optimiser's state from a checkpoint, its moments sharded as the parameters are, or not.

    Args:
        state: the state, whole or without moments.
        optimiser: the optimiser that will load it.
        model: whose parameters it optimises.
        folder: the checkpoint, which holds the moments if `state` does not.

    Raises:
        CheckpointError: the moments are damaged or do not fit the model.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    stored = stored_shards(folder)
    found: dict[str, Tensor] = {}
    complete: dict[int, dict[str, Any]] = {}
    for k, p in enumerate(parameters):
        own = {
            key: part_of(one, p) if isinstance(one, Tensor) and one.shape == p.shape and one.ndim else one
            for key, one in state["state"].get(k, {}).items()
        }
        for key in ("exp_avg", "exp_avg_sq"):
            name = f"{names[id(p)]}.{key}"
            if name in stored:
                if stored[name] != tuple(p.shape):
                    raise CheckpointError(f"{folder} holds {name} of shape {stored[name]}, where the model has {tuple(p.shape)}.")
                own[key] = found[name] = torch.zeros_like(p, requires_grad=False)
        if own:
            complete[k] = own
    if found:
        read_shards(folder, found)
    return {**state, "state": complete}
