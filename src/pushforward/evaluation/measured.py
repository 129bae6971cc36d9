"""What a comparison measures of one trained model: its likelihood, and samples at each number of network evaluations."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import PushforwardError
from pushforward.evaluation.likelihood import bits_per_dim
from pushforward.evaluation.quantise import quantise
from pushforward.evaluation.units import per_bit
from pushforward.evaluation.yardstick import Yardstick
from pushforward.families.checks import device_of
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.samplers.dopri5 import Dopri5

EXACT = 16  # largest dimension for which an ODE's divergence is exact: above that it takes minutes for a U-Net
TOLERANCE = 1e-3  # of the ODE's likelihood where the divergence is an estimate, whose error is larger
WARM = 8  # samples drawn before the time is taken


@dataclass(frozen=True)
class Samples:
    """The metrics of samples at one number of network evaluations; None is the one pass of an exact map.

    Args:
        evaluations: network evaluations a sample.
        milliseconds: time a sample, drawn in batches.
        scores: the metrics by name; empty where there are none.
        reason: why there are none.
    """

    evaluations: int | None
    milliseconds: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Measured:
    """What was measured of one trained model; likelihoods in the unit of the data, None with the reason where there is none."""

    parameters: int | None = None
    steps: int | None = None
    seconds: float | None = None
    likelihood: float | None = None
    likelihood_error: float | None = None
    likelihood_reason: str = ""
    samples: list[Samples] = field(default_factory=list)
    failure: str = ""

    def plain(self) -> dict[str, Any]:
        """Return mappings and lists, as JSON stores them."""
        return asdict(self)

    @staticmethod
    def from_plain(numbers: Mapping[str, Any]) -> "Measured":
        """Return the record of what `plain` returned."""
        return Measured(**{**numbers, "samples": [Samples(**one) for one in numbers["samples"]]})


def measure(
    model: GenerativeModel,
    yardstick: Yardstick,
    *,
    evaluations: Sequence[int],
    scored: int,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
    keep: Callable[[int | None, Tensor, Tensor | None], None] = lambda evaluations, samples, labels: None,
) -> Measured:
    """Measure a model, which is set to eval mode.

    Args:
        model: any model of events like the data's.
        yardstick: what it is measured with.
        evaluations: numbers of network evaluations; an exact map takes one pass, a distilled path model one evaluation.
        scored: test examples for the likelihood; that of ODEs is the mean of one Hutchinson estimate each above 16 dimensions.
        seed: seed of samples and estimates.
        report: called with a status line before each part.
        keep: called with each number of evaluations, its samples (n, *shape) and their labels.
    """
    model.eval()
    report("measuring the likelihood")
    likelihood = _likelihood(model, yardstick, scored, seed)
    counts: Sequence[int | None] = evaluations
    if not model.solved:
        counts = (None,)
    elif isinstance(model, PathModel) and model.one_step:
        counts = (1,)
    samples = []
    for count in counts:
        report("drawing samples in one pass" if count is None else f"drawing samples with {count} network evaluation{'s' * (count > 1)}")
        samples.append(_samples(model, yardstick, count, seed, keep))
    return Measured(parameters=sum(p.numel() for p in model.parameters()), samples=samples, **likelihood)


def _likelihood(model: GenerativeModel, yardstick: Yardstick, scored: int, seed: int) -> dict[str, Any]:
    test = yardstick.test.take(min(scored, len(yardstick.test)))
    options: dict[str, Any] = {}
    if model.solved and math.prod(model.shape) > EXACT:
        options = {"divergence": "hutchinson", "sampler": Dopri5(TOLERANCE, TOLERANCE)}
    cond, device = "none" if yardstick.conditions(model) is None else "given", device_of(model)
    try:
        with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
            torch.manual_seed(seed)  # of the estimates, which must not depend on what was measured before
            bits = bits_per_dim(model, test, cond=cond, generator=torch.Generator().manual_seed(seed), **options)
    except (PushforwardError, ArithmeticError) as error:
        return {"likelihood_reason": str(error)}
    times = per_bit(yardstick.likelihood_unit, math.prod(test.shape))
    return {"likelihood": times * bits.mean, "likelihood_error": times * bits.standard_error}


def _samples(
    model: GenerativeModel, yardstick: Yardstick, count: int | None, seed: int, keep: Callable[[int | None, Tensor, Tensor | None], None]
) -> Samples:
    cond = yardstick.conditions(model)
    labels = cond if model.classes is not None else None
    options: dict[str, Any] = {"batch_size": max(64, 2**18 // math.prod(model.shape))}
    if count is not None:
        options["sampler"] = model.sampler_of(count)
    n, device = yardstick.size, device_of(model)
    on_device = None if cond is None else cond.to(device)
    try:
        model.sample(
            min(n, WARM), None if on_device is None else on_device[:WARM], generator=torch.Generator().manual_seed(seed), **options
        )
        started = time.perf_counter()
        made = model.sample(n, on_device, generator=torch.Generator().manual_seed(seed), **options).cpu()
        milliseconds = 1000 * (time.perf_counter() - started) / n
        made = quantise(made, model.levels)
        scores = yardstick.scores(made, labels)
    except (PushforwardError, ArithmeticError) as error:
        return Samples(count, reason=str(error))
    keep(count, made, labels)
    return Samples(count, milliseconds, scores)
