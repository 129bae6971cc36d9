"""Importance sampling: samples of a model with weights that make them samples of the target."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import per_sample, whole
from pushforward.energies.energy import Energy, energies_of
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.registry import export


@export("energies.Weighted")
@dataclass(frozen=True, eq=False)
class Weighted:
    """Samples with weights, whose mean is the target's normaliser: E[w] = Z.

    Args:
        x: samples (n, *shape).
        log_weights: logarithms of their weights (n,), in nats; -inf is a weight of 0.

    Raises:
        ShapeError: there is not one weight per sample.
        UserError: all weights are 0, or one is infinite or NaN.

    Example:
        >>> samples = Weighted(torch.zeros(4, 2), torch.zeros(4))
        >>> samples.effective_size, samples.log_normaliser
        (4.0, 0.0)

    Source: Kong, A note on importance sampling using standardized weights, 1992 (effective sample size).
    """

    x: Tensor
    log_weights: Tensor

    def __post_init__(self) -> None:
        per_sample(self.log_weights, self.x, "log_weights")
        most = self.log_weights.amax().item()
        if not -math.inf < most < math.inf:
            raise UserError(f"the largest log-weight is {most}, but all must be finite or -inf, and one at least finite.")

    @property
    def effective_size(self) -> float:
        """The effective sample size (sum w)² / sum w², between 1 and n."""
        w = self.log_weights.double()
        return math.exp((2 * torch.logsumexp(w, 0) - torch.logsumexp(2 * w, 0)).item())

    @property
    def log_normaliser(self) -> float:
        """The estimate log(mean w) of the target's log Z, in nats; its error is about sqrt(1 / effective_size - 1 / n)."""
        return torch.logsumexp(self.log_weights.double(), 0).item() - math.log(len(self.x))

    def mean(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the target's expectation of function(x) (n, ...), by normalised weights; of events (true or false) their probability."""
        weights, value = self.log_weights.softmax(0), function(self.x)
        value = value if value.is_floating_point() else value.to(weights.dtype)
        return torch.tensordot(weights.to(value.dtype), value, 1)

    def resample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return n of the samples, drawn with replacement in proportion to their weights: systematic, so each as evenly as it can be."""
        whole("n", n, 1)
        start = _random.uniform((1,), generator, self.x.device, torch.float64)
        places = (torch.arange(n, dtype=torch.float64, device=self.x.device) + start) / n
        ends = self.log_weights.double().softmax(0).cumsum(0)
        return self.x[torch.searchsorted(ends, places).clamp_max(len(self.x) - 1)]


@export("energies.importance")
@torch.no_grad()
def importance(
    model: GenerativeModel,
    energy: Energy,
    n: int,
    cond: Any = None,
    *,
    generator: _random.Generators = None,
    batch_size: int | None = None,
) -> Weighted:
    """Return n samples of a model with their importance weights for exp(-energy).

        log w = -E(x) - log q(x),    E_q [w] = Z

    Args:
        model: a model with a density.
        energy: a function that returns the energies (n,) of x (n, *shape), in the data's units.
        n: number of samples, at least 1.
        cond: condition of each sample, or None.
        generator: randomness of the samples.
        batch_size: samples per chunk; None is all.

    Returns:
        The samples with their weights; `effective_size / n` is the share that counts.

    Raises:
        UserError: the model has no density, or an energy is NaN.
        ShapeError: the energy is not one number per sample.

    Example:
        >>> model = pf.models.nsf(2, layers=2, hidden=(8,))
        >>> importance(model, pf.energies.DoubleWell(2), 100).x.shape
        torch.Size([100, 2])

    Source: Noé, Olsson, Köhler and Wu, Boltzmann generators, 2019, arXiv 1812.01729, equation 10.
    """
    whole("n", n, 1)
    x, log_prob = model.sample(n, cond, log_prob=True, generator=generator, batch_size=batch_size)
    return Weighted(x, -energies_of(energy, x) - log_prob)
