"""The samplers that fit a model, by the number of network evaluations that a visitor chooses."""

import dataclasses
import functools
from typing import Any

from pushforward import registry
from pushforward._checks import shown
from pushforward.app.loaded import Loaded
from pushforward.errors import PushforwardError, UserError
from pushforward.families.continuous_flow import ContinuousFlow
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.samplers.linear import LinearSampler
from pushforward.samplers.sampler import AdaptiveSampler, FixedStepSampler, Sampler

OWN = "own"  # the model's own sampler


def names_of(loaded: Loaded) -> tuple[str, ...]:
    """Return the names of the samplers that a model can use, its own first."""
    return (OWN, *_kinds(loaded.model))


def sampler_of(model: GenerativeModel, name: Any, evaluations: Any, most: int) -> Sampler | None:
    """Return the sampler of a name that takes at most so many evaluations (at least one step), None for the model's own.

    Raises:
        UserError: the name is unknown or does not fit the model, or the number is out of range.
    """
    if name in (None, "", OWN):
        return None
    kinds = _kinds(model)
    if not isinstance(name, str) or name not in kinds:
        raise UserError(registry.unknown("sampler of this model", name if isinstance(name, str) else shown(name), (OWN, *kinds)))
    kind = kinds[name]
    if "steps" not in {one.name for one in dataclasses.fields(kind)}:
        return kind()
    try:
        count = float(evaluations)
    except (TypeError, ValueError):
        count = 0.0
    if isinstance(evaluations, bool) or count != count or count != int(min(max(count, -1), most + 1)) or not 1 <= count <= most:
        raise UserError(f"the number of evaluations is {shown(evaluations)}, but it is an integer from 1 to {most}.")
    return kind(steps=_steps(kind, int(count)))


def adaptive(model: GenerativeModel, name: Any) -> bool:
    """Return whether the number of evaluations does not apply to a sampler."""
    kind = _kinds(model).get(name)
    return kind is None or "steps" not in {one.name for one in dataclasses.fields(kind)}


def _steps(kind: Any, evaluations: int) -> int:
    """Return the largest number of steps with at most this many evaluations, or 1."""
    if issubclass(kind, FixedStepSampler):
        return max(1, evaluations // kind.tableau.evaluations)
    steps = evaluations
    while steps > 1 and (kind(steps=steps).evaluations or 0) > evaluations:
        steps -= 1
    return steps


@functools.lru_cache(maxsize=64)  # by the model's identity: some samplers compute their steps when they are tried
def _kinds(model: GenerativeModel) -> dict[str, Any]:
    """Return the samplers that fit a model by name; they are only read."""
    if not isinstance(model, PathModel | FlowMap | ContinuousFlow):
        return {}
    return {one.name.rpartition(".")[2]: one.thing for one in _registered() if _fits(model, one.thing)}


@functools.cache
def _registered() -> tuple[Any, ...]:
    return tuple(one for one in registry.entries("samplers") if isinstance(one.thing, type) and issubclass(one.thing, Sampler))


def _fits(model: Any, kind: Any) -> bool:
    """Return whether samples can be drawn with a sampler of this kind: by its steps alone, without the network."""
    try:
        sampler = kind(steps=2) if "steps" in {one.name for one in dataclasses.fields(kind)} else kind()
        if isinstance(model, FlowMap):
            model.check_sampler(sampler)
            return True
        if isinstance(model, ContinuousFlow):  # it has no path, which samplers of diffusion read
            return isinstance(sampler, FixedStepSampler | AdaptiveSampler)
        if sampler.jumps or not (sampler.solves_ode or model.gaussian):
            return False
        if isinstance(model, PathModel):
            low, high = model.interval
            end = sampler.last_time(model.path, low)
            if isinstance(sampler, LinearSampler):
                sampler.way(model.path, high, end)
            else:
                sampler.stage_times(model.path, high, end)
        return True
    except (PushforwardError, TypeError):  # TypeError: it needs more than steps
        return False
