"""Densities averaged: flows and mixtures of Gaussians, each with the weight that held-out rows give it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.evaluation.gaussians import GaussianSum
from pushforward.families.model import GenerativeModel

ROWS = 4096  # rows of a call
ROUNDS, CLOSE = 2000, 1e-9  # of expectation maximisation: at most, and the change of a weight at which it ends


def stacking_weights(log_densities: Tensor, counts: Tensor | None = None) -> Tensor:
    """Return the weights (k,) of a mixture of k densities, from their logarithms on held-out rows (n, k).

        w = argmax sum_i c_i log sum_k w_k p_k(x_i) + sum_k log w_k

    The last term keeps all weights positive: a density that covers what the others do not is worth nothing on rows of the same kind and
    much on an outlier. Rows to which all give density 0 are left out. `counts` (n,) are the weights c of rows, 1 by default.

    Source: Smyth and Wolpert, Stacked density estimation, 1997.
    """
    possible = log_densities.isfinite().any(1)
    rows, k = log_densities[possible], log_densities.shape[1]
    each = rows.new_ones(len(rows)) if counts is None else counts[possible].to(rows)
    weights = rows.new_full((k,), 1 / k)
    for _ in range(ROUNDS):
        before, weights = weights, (each @ (weights.log() + rows).softmax(1) + 1) / (each.sum() + k)
        if float((weights - before).abs().max()) < CLOSE:
            break
    return weights


class Stacked:
    """A density averaged over members of several kinds.

        p(x | c) = sum_k w_k mean_m p_km(x | c)

    Args:
        members: for each kind the densities that were fitted: models, or sums of Gaussians.
        weights: w, by kind.
    """

    def __init__(self, members: Mapping[str, Sequence[Any]], weights: Mapping[str, float]) -> None:
        self.members, self.weights = {kind: list(some) for kind, some in members.items()}, dict(weights)

    def log_prob(self, x: Tensor, cond: Tensor | None, device: torch.device) -> Tensor:
        """Return log p(x | c) (n,) in nats, in float64, for x (n, d) in the models' units."""
        parts = []
        for kind, some in self.members.items():
            share = numpy.log(self.weights[kind] / len(some)) if self.weights[kind] else -numpy.inf
            parts += [log_prob(member, x, cond, device) + share for member in some]
        return torch.stack(parts).logsumexp(0)

    def sample(self, n: int, cond: Tensor | None, seed: int, device: torch.device) -> Tensor:
        """Return n draws (n, d) in float64, in the models' units; those of different members are mixed."""
        generator = torch.Generator().manual_seed(seed)
        kinds = [(member, self.weights[kind] / len(some)) for kind, some in self.members.items() for member in some]
        shares = torch.tensor([share for _, share in kinds], dtype=torch.float64)
        of = torch.multinomial(shares, n, replacement=True, generator=generator) if n else torch.zeros(0, dtype=torch.int64)
        parts = []
        for k, (member, _) in enumerate(kinds):
            rows = (of == k).nonzero()[:, 0]
            if len(rows):
                parts.append((rows, drawn(member, len(rows), None if cond is None else cond[rows], generator, device)))
        found = parts[0][1].new_empty(n, parts[0][1].shape[1])
        for rows, x in parts:
            found[rows] = x
        return found


def log_prob(member: Any, x: Tensor, cond: Tensor | None, device: torch.device) -> Tensor:
    """Return the log-density (n,) of rows by a model or a sum of Gaussians; -inf where it is not a number."""
    if not isinstance(member, GenerativeModel):
        value: Tensor = member.log_prob(x) if cond is None else member.log_prob(x, cond)
        return value.nan_to_num(nan=-torch.inf, neginf=-torch.inf)

    def computed(model: GenerativeModel, dtype: torch.dtype) -> Tensor:
        parts = [x[:0, 0]]
        for start in range(0, len(x), ROWS):
            some = slice(start, start + ROWS)
            part = model.log_prob(x[some].to(device, dtype), None if cond is None else moved(cond[some], device, dtype))
            parts.append(part.cpu().double())
        return torch.cat(parts)

    return on(device, member, computed).nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def drawn(member: Any, n: int, cond: Tensor | None, generator: torch.Generator, device: torch.device, **options: Any) -> Tensor:
    """Return n draws (n, d) in float64 of a model, by the options of its method `sample`, or of a sum of Gaussians."""
    if not isinstance(member, GenerativeModel):
        found: Tensor = member.sample(n, generator) if cond is None or isinstance(member, GaussianSum) else member.sample(cond, generator)
        return found
    seed = int(torch.randint(2**62, (), generator=generator))

    def computed(model: GenerativeModel, dtype: torch.dtype) -> Tensor:
        own = torch.Generator(device).manual_seed(seed)
        read = None if cond is None else moved(cond, device, dtype)
        return model.sample(n, read, generator=[own], batch_size=ROWS, **options).cpu().double()

    return on(device, member, computed)


def moved(cond: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return conditions on a device, vectors in a dtype."""
    return cond.to(device, dtype) if cond.is_floating_point() else cond.to(device)


@torch.no_grad()
def on(device: torch.device, model: GenerativeModel, compute: Callable[[GenerativeModel, torch.dtype], Tensor]) -> Tensor:
    """Return what a model computes on a device: in float64, so that a row's value does not depend on its batch, where there is that."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    if device.type == "cpu":
        return compute(model, dtype)
    try:
        return compute(model.to(device, dtype), dtype)
    finally:
        model.to("cpu", torch.float64)
