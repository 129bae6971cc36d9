"""What a model is given while it trains, and loses afterwards."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pushforward.families.flow_map import FlowMap
from pushforward.families.on_path import OnPath


def attach(model: Any, averaged: Any, watch: Callable[[Tensor, Tensor], None]) -> None:
    """Let a model report its losses over time, and use averaged weights in its targets."""
    if isinstance(model, OnPath):
        model.watch = watch
    if isinstance(model, FlowMap):
        model.follow_average(averaged)


def detach(model: Any) -> None:
    """Take all of it back, with the noise on inputs and the progress that the Trainer sets in each step."""
    model.input_noise, model.progress = 0.0, 1.0
    if isinstance(model, OnPath):
        model.watch = None
    if isinstance(model, FlowMap):
        model.follow_average(None)
