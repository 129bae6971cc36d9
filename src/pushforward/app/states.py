"""From noise to data, step by step: what `sample` computes, one state at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward.app.asked import Asked, noise_of
from pushforward.bijections.chain import Chain
from pushforward.errors import UserError
from pushforward.families.checks import check_finite
from pushforward.families.continuous_flow import ContinuousFlow
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.families.path_model import PathModel
from pushforward.guidance.guidance import Guidance
from pushforward.samplers.sampler import Sampler


class Frame(NamedTuple):
    """What is shown after a step.

    Attributes:
        step: steps that are done, 0 for the noise itself.
        total: how many there are, None if the sampler chooses them.
        x: the state (n, *shape) in the data's units.
        data: the data that the network expects at the step's start, in the same units, or None.
        last: whether x is the sample.
    """

    step: int
    total: int | None
    x: Tensor
    data: Tensor | None = None
    last: bool = False


def drawn(model: GenerativeModel, settings: Asked, guidance: Guidance | None = None) -> Iterator[Frame]:
    """Yield the noise, the state after each step, and the samples: those of `model.sample` with this seed, bit for bit.

    Args:
        model: the model, which is only read.
        settings: what was asked for.
        guidance: in place of the scale in the settings.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    model._base_sample(settings.n, settings.cond, generator)  # leaves the generator where `sample` draws on for stochastic samplers
    yield from states(model, noise_of(model, settings), settings, guidance, generator)


@torch.no_grad()
def states(
    model: GenerativeModel, noise: Tensor, settings: Asked, guidance: Any = None, generator: torch.Generator | None = None
) -> Iterator[Frame]:
    """Yield the frames from given noise (n, *shape), in units of the model's base, to data.

    Raises:
        SolverError: a sample is not finite.
    """
    cond, sampler = settings.cond, settings.sampler
    steered = model._guided(settings.guidance if guidance is None else guidance, sampler, False)
    steps = _steps(model, noise, cond, sampler, steered, generator)
    k, total, x = 0, None, noise
    yield Frame(0, None, model._from_model(noise))
    for k, (total, x, data) in enumerate(steps, 1):
        yield Frame(k, total, model._from_model(x), None if data is None else model._from_model(data))
    made = model._from_model(x)
    check_finite(made, 0, sampler or model.sampler)
    yield Frame(k, total, made, None, last=True)


Step = tuple[int | None, Tensor, Tensor | None]  # number of steps, state, expected data, in the model's units


def _steps(
    model: Any, noise: Tensor, cond: Any, sampler: Sampler | None, guidance: Any, generator: torch.Generator | None
) -> Iterator[Step]:
    if isinstance(model, PathModel):
        return _on_path(model, noise, cond, model._sampler(sampler), guidance, generator)
    if isinstance(model, FlowMap):
        own = model._sampler(sampler)
        model.check_sampler(own)
        return _iterated(own, model.denoiser(cond, guidance), noise, model.path, *model.interval, generator)
    if isinstance(model, ContinuousFlow):
        return _iterated(model._ode_sampler(sampler), model.denoiser(cond, guidance), noise, None, *model.interval, generator)
    if isinstance(model, NormalizingFlow) and isinstance(model.bijection, Chain) and guidance is None:
        return _layers(model, noise, cond, sampler, generator)
    return iter([(1, model._sampled(noise, cond, sampler, guidance, generator), None)])


def _on_path(model: PathModel, noise: Tensor, cond: Any, own: Sampler, guidance: Any, generator: Any) -> Iterator[Step]:
    denoiser, (t_min, t_max) = model.denoiser(cond, model._stepped(guidance, own)), model.interval
    end = own.last_time(model.path, t_min)
    total, x, data = None, noise, None
    for total, x, data in _iterated(own, denoiser, noise, model.path, end, t_max, generator):
        yield total, x, data
    if model._noise_left and end >= t_min:  # as in `sample`: the last step is to the expected data
        t = torch.full((x.shape[0],), end, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)
        yield total, denoiser(x, t).data.to(x.dtype), None


def _iterated(own: Sampler, denoiser: Any, noise: Tensor, path: Any, low: float, high: float, generator: Any) -> Iterator[Step]:
    times = own.step_times(path, high, low) if path is not None or not own.solves_ode else None
    total = (own.evaluations if own.jumps else None) if times is None else len(times) - 1
    for state in own.iterate(denoiser, noise, high, low, generator):
        data = getattr(state.prediction, "data", None) if path is not None else None
        yield total, state.x, data


def _layers(model: NormalizingFlow, noise: Tensor, cond: Any, sampler: Sampler | None, generator: Any) -> Iterator[Step]:
    """Yield the points after each bijection of a chain, from noise to data; the last are the samples themselves."""
    assert isinstance(model.bijection, Chain)
    steps = list(reversed(model.bijection.steps))
    x = noise
    for k, step in enumerate(steps):
        if k == len(steps) - 1:
            x = model._sampled(noise, cond, sampler, None, generator)
        elif (x := step.inverse(x, cond)[0]).shape != noise.shape:  # a multiscale flow's parts have other shapes
            x = noise
        yield len(steps), x, None


def together(a: Iterator[Frame], b: Iterator[Frame]) -> Iterator[tuple[Frame, Frame]]:
    """Yield the frames of two models, each step by step; the one that ends first stays at its samples."""
    left, right = next(a), next(b)
    yield left, right
    while not (left.last and right.last):
        left, right = next(a, left), next(b, right)
        yield left, right


def check_comparable(a: GenerativeModel, b: GenerativeModel, names: tuple[str, str]) -> None:
    """Raise unless two models have events of one shape and noise of one kind, so that one noise suits both.

    Raises:
        UserError: they have not.
    """
    if a.shape != b.shape:
        raise UserError(f"{names[0]} has events of shape {a.shape} and {names[1]} of {b.shape}; compare models of the same shape.")
    if type(a.base) is not type(b.base):
        kinds = [type(one.base).__name__ for one in (a, b)]
        raise UserError(f"{names[0]} starts from {kinds[0]} and {names[1]} from {kinds[1]}; compare models with noise of one kind.")
