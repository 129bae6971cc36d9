"""What fewer evaluations cost: the time of samples, and their distance to what the ODE leads to from the same noise."""

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from pushforward.app.asked import Asked, asked
from pushforward.app.loaded import Loaded
from pushforward.app.states import Frame, drawn
from pushforward.families.continuous_flow import ContinuousFlow
from pushforward.families.flow_map import FlowMap
from pushforward.families.path_model import PathModel
from pushforward.samplers.heun import Heun

REFERENCE = Heun(25)  # 50 evaluations


class Measured(NamedTuple):
    """Samples (n, *shape) of a request.

    Attributes:
        frame: the samples, and the steps that they took.
        seconds: time that they took.
        distance: root mean squared distance to the ODE's solution from the same noise, in its standard deviation; None where that is not
            the aim: a stochastic sampler, a model without an ODE.
    """

    frame: Frame
    seconds: float
    distance: float | None = None


def measured(loaded: Loaded, n: Any, seed: Any, label: Any, sampler: Any, evaluations: Any, guidance: Any) -> Iterator[Measured]:
    """Yield the samples, and then again with their distance to the ODE's solution, which takes longer the first time."""
    settings = asked(loaded, n, seed, label, sampler, evaluations, guidance)
    start = time.perf_counter()
    *_, frame = drawn(loaded.model, settings)
    found = Measured(frame, time.perf_counter() - start)
    yield found
    own = loaded.model.sampler if settings.sampler is None else settings.sampler
    if own is not None and (own.solves_ode or own.jumps) and _has_ode(loaded):
        exact = reference(loaded, settings.n, settings.seed, str(label), settings.guidance)
        distance = (frame.x - exact).square().mean().sqrt() / exact.std().clamp_min(1e-9)
        yield found._replace(distance=float(distance))


@functools.lru_cache(maxsize=8)
def reference(loaded: Loaded, n: int, seed: int, label: str, guidance: float | None) -> Tensor:
    """Return the ODE's solution (n, *shape) from the noise of a seed, kept for later requests, which only read it."""
    settings = asked(loaded, n, seed, label, guidance=1 if guidance is None else guidance)
    *_, frame = drawn(loaded.model, Asked(n, seed, settings.cond, REFERENCE, guidance))
    return frame.x


def _has_ode(loaded: Loaded) -> bool:
    model = loaded.model
    return isinstance(model, PathModel | ContinuousFlow) or (isinstance(model, FlowMap) and model.objective.solves_ode)


def standing(found: Measured) -> str:
    """Return steps, time and distance in numbers, which need no translation."""
    steps = f"{found.frame.step} × " if found.frame.step > 1 else ""
    text = f"{steps}{found.seconds / max(1, found.frame.step):.3f} s = {found.seconds:.2f} s" if steps else f"{found.seconds:.2f} s"
    return text if found.distance is None else f"{text} · Δ {found.distance:.3f} σ"
