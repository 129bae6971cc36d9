"""Likelihood of data under a model, in bits per dimension."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from pushforward import _random
from pushforward.data.dataset import Dataset
from pushforward.data.given import for_model
from pushforward.errors import DataError, UserError
from pushforward.families.normalizing_flow import NormalizingFlow
from pushforward.functional.levels import spread
from pushforward.registry import export, unknown

CONDS = ("given", "mixture", "none")
AVERAGES = ("mean", "importance")


class Density(Protocol):
    """Anything with a log-density: a model, a baseline or an analytic mixture."""

    def log_prob(self, x: Tensor, cond: Any = None) -> Tensor: ...


@dataclass(frozen=True)
class BitsPerDim:
    """A likelihood in bits per dimension: mean over the examples, standard error of the mean, and per-example values (n,)."""

    mean: float
    standard_error: float
    per_example: Tensor

    def __str__(self) -> str:
        return f"{self.mean:.3f} +- {self.standard_error:.3f} bits/dim"


@export("evaluation.bits_per_dim")
def bits_per_dim(
    model: Density,
    data: Any,
    draws: int = 1,
    *,
    cond: str = "given",
    average: str = "mean",
    class_weights: Tensor | None = None,
    batch_size: int = 512,
    generator: Generator | None = None,
    **options: Any,
) -> BitsPerDim:
    """Measure the negative log-likelihood of data under a model, in bits per dimension; lower is better.

        b(x) = -E_u[log2 p(x + u)] / D,    u uniform in [0, 1)^D if the data have levels, else 0

    For a table with levels in only some columns, u is 0 in the others.

    For data with levels this is an upper bound of -log2 P(x) / D of the discrete data (Jensen). `average="importance"` takes the
    mean over draws inside the log, -log2 mean_u p(x + u) / D: a tighter bound that decreases with `draws`, so only compare results
    with equal `draws`. Both are in units where neighbouring levels differ by 1. The model is evaluated in eval mode and without
    gradients; its mode is restored. A flow with learned dequantisation (`dequantisation`) draws u from its own q, and log q is
    subtracted from log p.

    Args:
        model: has log_prob(x, cond) -> (n,) nats in the units of the data.
        data: the set to evaluate on, x (N, *shape) with D values each; or a DataFrame, array, tensor or map-style set.
        draws: number of draws of u per example (only for data with levels).
        cond: "given" for log p(x | c) with the labels of the data, "mixture" for log sum_c p(c) p(x | c), "none" for cond=None.
        average: "mean" of log p over draws, or "importance" for log of the mean of p.
        class_weights: p(c) (classes,) for "mixture", normalised to sum 1; uniform by default.
        batch_size: examples per call of log_prob.
        generator: random generator of u, on the device of the data.
        options: passed on to log_prob, such as `sampler` and `divergence`.

    Returns:
        A frozen record of mean, standard_error (over examples) and per_example (N,), in bits per dimension.

    Raises:
        UserError: an argument has an invalid value, or "mixture" is requested for data without classes.
        ArithmeticError: log_prob is NaN (the first such row is reported).

    Example:
        >>> import torch
        >>> from pushforward import data, evaluation
        >>> truth, test = data.three_gaussians(), data.load("mixture", "test")
        >>> print(evaluation.bits_per_dim(truth, test))
        0.936 +- 0.019 bits/dim

    Source: Theis et al., 2015, arXiv 1511.01844 (dequantisation); Burda et al., 2015, arXiv 1509.00519 (the mean inside the log).
    """
    if cond not in CONDS:
        raise UserError(f"cond: {unknown('way to condition', str(cond), CONDS)}")
    if average not in AVERAGES:
        raise UserError(f"average: {unknown('average', str(average), AVERAGES)}")
    if draws < 1 or batch_size < 1:
        raise UserError(f"draws is {draws} and batch_size {batch_size}, but both must be at least 1.")
    data = for_model(data, model)
    log_weights = _log_class_weights(data, model, class_weights) if cond == "mixture" else None
    rounds = draws if data.levels is not None else 1
    log_probs = []
    with torch.no_grad(), _evaluating(model):
        for start in range(0, len(data), batch_size):
            x, labels = data[start : start + batch_size]
            drawn = []
            for _ in range(rounds):
                y, log_q = _spread(model, data, x, generator)
                log_prob = _log_prob(model, y, labels if cond == "given" else None, log_weights, options)
                drawn.append(log_prob if log_q is None else log_prob - log_q.cpu().to(torch.float64))
            stacked = torch.stack(drawn)
            log_probs.append(stacked.mean(0) if average == "mean" else torch.logsumexp(stacked, 0) - math.log(rounds))
    bits = -torch.cat(log_probs) / (math.prod(data.shape) * math.log(2))
    wrong = bits.isnan().nonzero().flatten()
    if len(wrong):
        raise ArithmeticError(f"log_prob is NaN for {len(wrong)} of {len(data)} examples of {data.name}, first for row {int(wrong[0])}.")
    error = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
    return BitsPerDim(float(bits.mean()), error, bits)


def _spread(model: Density, data: Dataset, x: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor | None]:
    """Return dequantised data on the model's device, and log q of the draw if the model has a learned q."""
    if data.levels is not None and isinstance(model, NormalizingFlow) and model.dequantisation is not None:
        return model.dequantised(_suited(model, x), generator)
    uniform = None if data.levels is None else _random.uniform(x.shape, generator, x.device, x.dtype)
    return _suited(model, x if uniform is None else spread(x, data.levels, uniform)), None


def _log_class_weights(data: Dataset, model: Density, weights: Tensor | None) -> Tensor:
    classes = getattr(model, "classes", None) if data.classes is None else data.classes  # data without labels may be scored too
    if classes is None:
        raise DataError(f'cond is "mixture", but {data.name} has no classes; use cond="none".')
    weights = torch.ones(classes, dtype=torch.float64) if weights is None else weights.detach().cpu().to(torch.float64)
    if tuple(weights.shape) != (classes,) or not (weights >= 0).all() or not weights.sum() > 0:
        raise UserError(f"class_weights is {weights.tolist()}, but {classes} classes need one non-negative weight each.")
    return (weights / weights.sum()).log()


def _log_prob(model: Density, x: Tensor, labels: Tensor | None, log_weights: Tensor | None, options: dict[str, Any]) -> Tensor:
    """Log p(x | labels), or log sum_c p(c) p(x | c), as float64 on the CPU."""
    if log_weights is None:
        return model.log_prob(x, None if labels is None else labels.to(x.device), **options).cpu().to(torch.float64)
    classes = range(len(log_weights))
    each = [model.log_prob(x, torch.full((len(x),), c, device=x.device), **options).cpu().to(torch.float64) for c in classes]
    return torch.logsumexp(torch.stack(each) + log_weights[:, None], dim=0)


def _suited(model: Density, x: Tensor) -> Tensor:
    """Put x on the device of a model and, for a float64 model, in float64."""
    if isinstance(model, nn.Module):
        for held in (*model.parameters(), *model.buffers()):
            if held.is_floating_point():
                return x.to(held.device, torch.promote_types(x.dtype, held.dtype))
    return x


@contextlib.contextmanager
def _evaluating(model: Density) -> Iterator[None]:
    """Put every module of a model in eval mode, and restore each module's mode afterwards."""
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
