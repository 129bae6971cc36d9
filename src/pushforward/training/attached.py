"""What a model is given while it trains, and loses afterwards; what follows from its weights once they are kept."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.families.on_path import OnPath

SETTLED = 256  # training examples that what follows from the weights is fitted to


def attach(model: Any, averaged: Any, watch: Callable[[Tensor, Tensor], None]) -> None:
    """Let a model report its losses over time, and use averaged weights in its targets."""
    if isinstance(model, OnPath):
        model.watch = watch
    if isinstance(model, FlowMap):
        model.follow_average(averaged)


def settles(model: GenerativeModel) -> bool:
    """Return whether something follows from a model's weights that is fitted before they are kept, such as the scale of latents."""
    return type(model).settle is not GenerativeModel.settle


def settle(models: Sequence[GenerativeModel], rows: Callable[[int], tuple[Tensor, Any]]) -> None:
    """Fit what follows from the weights of models to training examples; `rows` returns the given number."""
    x, cond = rows(SETTLED)
    for model in models:
        model.settle(x, cond)


def detach(model: Any) -> None:
    """Take all of it back, with the noise on inputs and the progress that the Trainer sets in each step."""
    model.input_noise, model.progress = 0.0, 1.0
    if isinstance(model, OnPath):
        model.watch = None
    if isinstance(model, FlowMap):
        model.follow_average(None)
