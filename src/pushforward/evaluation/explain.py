"""Normalizing flows and diffusion in one comparison table, derived from the models and measured on them."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pushforward.bijections.chain import Chain
from pushforward.errors import NotInvertibleError
from pushforward.families.autoencoder import Autoencoder
from pushforward.families.continuous_flow import ContinuousFlow
from pushforward.families.flow_map import FlowMap
from pushforward.families.model import GenerativeModel
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.families.path_model import PathModel
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.types import path_of


def _example() -> tuple:
    from pushforward.models.realnvp import realnvp
    from pushforward.models.rectified_flow import rectified_flow
    from pushforward.nn.mlp import MLP

    return ({"flow": realnvp(2, 2, (8,)), "diffusion": rectified_flow(MLP.Config((8,)), (2,))}, torch.randn(16, 2))


@export("evaluation.explain", example=_example)
@torch.no_grad()
def explain(models: Mapping[str, GenerativeModel], x: Tensor) -> dict[str, dict[str, str]]:
    """Return a comparison of models: structure, training and the cost of each verb, one row per question.

    No entry is written by hand: the map, its inverse and the training are derived from the model's parts, the rest is measured.

    Args:
        models: models by column name, with equal event shapes.
        x: data (n, *shape) to measure on.

    Returns:
        For each question the answer for each model, by column name.

    Example:
        >>> import pushforward as pf
        >>> table = pf.evaluation.explain({"flow": pf.models.realnvp(2)}, torch.randn(8, 2))
        >>> table["latent"]["flow"]
        '2 numbers for 2'
    """
    columns = {name: _answers(model, x) for name, model in models.items()}
    questions = list(next(iter(columns.values()), {}))
    return {question: {name: answers[question] for name, answers in columns.items()} for question in questions}


def _answers(model: GenerativeModel, x: Tensor) -> dict[str, str]:
    n, d = len(x), math.prod(model.shape)
    sampling, scoring = _Counting(model.sampler if model.solved else None), _Counting(_by_ode(model))
    made = _timed(lambda: model.sample(n, **_by(sampling)))
    return {
        "family": type(model).__name__,
        "map": _map(model),
        "noise to data": _noise_to_data(model),
        "network": _network(model),
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "trained by": _training(model),
        "likelihood": _likelihood(model, x, scoring, d),
        "latent": f"{math.prod(model.latent_shape)} numbers for {d}",
        "decode(encode(x)) - x": _round_trip(model, x),
        "evaluations a sample": "1 pass" if not model.solved else f"{sampling.calls + _finishes(model)}",
        "time a sample": f"{1e6 * made / n:.0f} µs",
        "verbs": ", ".join(model.verbs),
    }


def _noise_to_data(model: GenerativeModel) -> str:
    sampler = model.sampler
    if isinstance(model, Autoencoder):
        return "the decoder"
    if not model.solved or sampler is None:
        return "the inverse of each layer, in turn" + (f", then {sampler}" if sampler is not None else "")
    return f"{'jump' if sampler.jumps else 'solve'} from t = 1 to 0, by {sampler}"


def _finishes(model: GenerativeModel) -> bool:
    """Return whether sampling ends with an evaluation of the model's own, the expected data."""
    if not isinstance(model, PathModel) or model.sampler is None:
        return False
    return model._noise_left and model.sampler.last_time(model.path, model.interval[0]) >= model.interval[0]


def _map(model: GenerativeModel) -> str:
    if isinstance(model, NormalizingFlow):
        count = len(model.bijection.steps) if isinstance(model.bijection, Chain) else 1
        return f"{count} layer{'s' * (count > 1)}, each invertible by construction"
    if isinstance(model, PathModel):
        return f"dx/dt = v(x, t), whose marginals are those of the path {model.path}"
    if isinstance(model, FlowMap):
        return f"the state at r of the trajectory through x at t, along the path {model.path}"
    if isinstance(model, Autoencoder):
        return "an encoder and a decoder, which approximates its inverse"
    return "dx/dt = v(x, t), invertible by integration"


def _network(model: GenerativeModel) -> str:
    if isinstance(model, NormalizingFlow):
        steps = list(model.bijection.steps) if isinstance(model.bijection, Chain) else [model.bijection]
        return "constrained: inside " + ", ".join(dict.fromkeys(type(step).__name__ for step in steps))
    return "free: " + ", ".join(type(net).__name__ for net in model.networks())


def _training(model: GenerativeModel) -> str:
    if isinstance(model, PathModel):
        return f"regression on the conditional {model.prediction}"
    if isinstance(model, FlowMap):
        return f"regression by {type(model.objective).__name__}, {'a teacher' if model.teacher is not None else 'no teacher'}"
    if isinstance(model, Autoencoder):
        return "reconstruction and a KL term"
    through = "" if isinstance(model, NormalizingFlow) else f", through {model.loss_sampler}" if isinstance(model, ContinuousFlow) else ""
    return f"maximum likelihood{through}"


def _likelihood(model: GenerativeModel, x: Tensor, scoring: "_Counting", d: int) -> str:
    try:
        seconds = _timed(lambda: model.log_prob(x, **_by(scoring)))
    except NotInvertibleError:
        return "none"
    how = "exact, 1 pass" if not model.solved else f"exact divergence, one solve of {scoring.calls} evaluations"
    return f"{how}, {1e6 * seconds / len(x):.0f} µs"


def _round_trip(model: GenerativeModel, x: Tensor) -> str:
    try:
        return f"{float((model.decode(model.encode(x)) - x).abs().max()):.0e}"
    except NotInvertibleError:
        return "no inverse"


def _by_ode(model: GenerativeModel) -> Sampler | None:
    """Return the sampler for likelihoods: the model's own, or Dopri5 if that is stochastic."""
    if not model.solved or model.sampler is None:
        return None
    return model.sampler if model.sampler.solves_ode else Dopri5()


def _by(counting: "_Counting") -> dict[str, Any]:
    return {} if counting.sampler is None else {"sampler": counting}


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class _Counting(Sampler):
    """A sampler that counts its calls of the denoiser."""

    def __init__(self, sampler: Sampler | None) -> None:
        self.sampler, self.calls = sampler, 0

    @property
    def jumps(self) -> bool:  # type: ignore[override]
        return self.sampler is not None and self.sampler.jumps

    @property
    def solves_ode(self) -> bool:  # type: ignore[override]
        return self.sampler is not None and self.sampler.solves_ode

    def last_time(self, path: Any, t_min: float) -> float:
        assert self.sampler is not None
        return self.sampler.last_time(path, t_min)

    def __call__(self, denoiser: Any, x: Tensor, t_start: float, t_end: float, generator: Any = None) -> Tensor:
        assert self.sampler is not None
        return self.sampler(_Counted(self, denoiser), x, t_start, t_end, generator)


class _Counted:
    def __init__(self, count: _Counting, denoiser: Any) -> None:
        self.count, self.denoiser = count, denoiser
        self.path, self.args = path_of(denoiser), denoiser.args

    def bind(self, *args: Any) -> "_Counted":
        return _Counted(self.count, self.denoiser.bind(*args))

    def __call__(self, x: Tensor, t: Tensor) -> Any:
        self.count.calls += 1
        return self.denoiser(x, t)

    def jump(self, x: Tensor, t: float, r: float) -> Tensor:
        self.count.calls += 1
        state: Tensor = self.denoiser.jump(x, t, r)
        return state
