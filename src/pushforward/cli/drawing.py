"""What a command draws samples with, checked against the described model before its weights are read."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.families.autoencoder import Autoencoder
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.guidance.clip import Clip
from pushforward.guidance.guidance import Guidance
from pushforward.samplers.euler import Euler
from pushforward.samplers.linear import LinearSampler
from pushforward.samplers.sampler import Sampler

QUANTILE = 0.995  # of dynamic thresholding, as in the paper and diffusers


def clip_of(words: Sequence[str], guidance: Any = None) -> Any:
    """Return guidance clipped as the words of --clip state: [LOW] [HIGH] [dynamic [QUANTILE]], from -1 to 1 by default.

    Raises:
        UserError: they state something else.
    """
    if not words:
        return guidance
    given = list(words)
    place = given.index("dynamic") if "dynamic" in given else len(given)
    ends, after = given[:place], given[place + 1 :]
    try:
        numbers, share = [float(one) for one in ends], [float(one) for one in after]
    except ValueError:
        numbers, share = [], [0.0, 0.0]
    if len(numbers) > 2 or len(share) > 1:
        raise UserError(
            f"--clip is {' '.join(given)!r}, but it is a number, such as 1 for -1 to 1, or two, or `dynamic`, or both; `dynamic 0.99` "
            "states the quantile."
        )
    low, high = numbers if len(numbers) == 2 else (-numbers[0], numbers[0]) if numbers else (-1.0, 1.0)
    threshold = None if place == len(given) else share[0] if share else QUANTILE
    return Clip(low, high, threshold, guidance)


def check_sampler(model: GenerativeModel, sampler: Sampler | None) -> None:
    """Raise what sampling would raise for a sampler (None is the model's own), from its steps alone.

    Raises:
        UserError: the model has no use for it, or its grid does not fit the model's path.
    """
    if isinstance(model, FlowMap | Autoencoder):
        model.check_sampler(sampler)
        return
    if not isinstance(model, PathModel):
        shape = model.conditioning.shape
        model.map(None if shape is None else torch.empty(0, *shape, dtype=model.dtype), sampler=sampler)
        return
    own, (low, high) = model.sampler if sampler is None else sampler, model.interval
    assert own is not None
    end = own.last_time(model.path, low)
    if isinstance(own, LinearSampler):
        own.way(model.path, high, end)
    else:
        own.stage_times(model.path, high, end)


def check_drawing(model: GenerativeModel, labels: Tensor | None, sampler: Sampler | None, guidance: Any, temperature: float) -> None:
    """Raise what `model.sample` would raise for these options, by a sample of no rows: the network is called once, with nothing.

    Raises:
        UserError: the model has no use for an option.
    """
    check_sampler(model, sampler)
    own = model.sampler if sampler is None else sampler
    refused = own is not None and not own.solves_ode and not model.gaussian  # before the network is called
    if isinstance(guidance, Guidance) and guidance.needs_times and isinstance(model, PathModel):
        refused = refused or (own is not None and own.step_times(model.path, *model.interval[::-1]) is None)
    quick = own if refused or own is None or own.jumps or not model.solved else Euler(1)
    none = None if labels is None else labels[:0]
    model.sample(0, none, sampler=quick, guidance=guidance, temperature=temperature, generator=torch.Generator())


def check_clip(model: GenerativeModel, words: Sequence[str]) -> None:
    """Raise unless a model predicts data that --clip can clip.

    Raises:
        UserError: it is no path model.
    """
    if words and not isinstance(model, PathModel):
        raise UserError(
            f"--clip is {' '.join(words)!r}, but a {type(model).__name__} predicts no data that could be clipped; leave it out."
        )
