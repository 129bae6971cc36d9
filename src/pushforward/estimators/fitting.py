"""How a density is fitted: parts of the rows held out, flows and mixtures of Gaussians on the others, and their weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.estimators.gaussians import gaussians_of, refitted
from pushforward.estimators.given import Conditions
from pushforward.estimators.members import Plan, data_of, trained
from pushforward.estimators.reading import Reader, shuffled
from pushforward.estimators.stacking import Stacked, log_prob, stacking_weights

HELD_OUT = 10_000  # rows that a single member does not see, at most
FLOW = "flow"


@dataclass(frozen=True)
class Fitted:
    """A fitted density.

    Attributes:
        density: the members with their weights.
        steps: the steps that each flow took.
        held_out: log-densities (n,) of the held-out rows, by members that did not see them; None where no rows were.
        held_out_weights: weights (n,) of these rows, if rows have some.
    """

    density: Stacked
    steps: list[int]
    held_out: Tensor | None
    held_out_weights: Tensor | None = None

    @property
    def score(self) -> float | None:
        """The mean of `held_out`, by weights."""
        if self.held_out is None or self.held_out_weights is None:
            return None if self.held_out is None else float(self.held_out.mean())
        return float((self.held_out * self.held_out_weights).sum() / self.held_out_weights.sum())


def mean_of(scores: Tensor, weights: Tensor | None) -> float:
    """Return the mean of those of the scores (n,) that are finite, by weights (n,); 0 if none is."""
    finite = scores.isfinite()
    counts = torch.ones_like(scores) if weights is None else weights
    return float((scores * counts)[finite].sum() / counts[finite].sum()) if bool(finite.any()) else 0.0


def held_out_rows(n: int, members: int, fraction: float, cond: Tensor | None, seed: int) -> list[numpy.ndarray]:
    """Return which rows (n,) each member does not see: equal parts for several members, a fraction, at most 10,000, for one.

    Classes are divided equally.
    """
    order = numpy.random.RandomState(seed).permutation(n)
    if cond is not None and cond.ndim == 1:
        order = order[numpy.argsort(cond.numpy()[order], kind="stable")]
    place = numpy.empty(n, dtype=numpy.int64)
    place[order] = numpy.arange(n)
    if members > 1:
        return [place % members == k for k in range(members)]
    fraction = min(fraction, HELD_OUT / n)
    some = numpy.floor((place + 1) * fraction) > numpy.floor(place * fraction)
    if some.sum() in (0, n):
        some = (place == 0) if not some.any() else (place > 0)
    return [some]


def fitted(
    plan: Plan,
    x: Tensor,
    cond: Tensor | None,
    reader: Reader,
    conditions: Conditions | None,
    held: Sequence[numpy.ndarray],
    gaussians: bool,
    seed: int,
    start: Sequence[Any] = (),
    weights: Tensor | None = None,
) -> Fitted:
    """Return a density fitted to rows.

    Args:
        plan: what the flows are.
        x: the rows (n, d), in the model's units.
        cond: their conditions.
        reader: how they were read.
        conditions: what the conditions are.
        held: the rows that each member does not see; empty for one member that sees all of them.
        gaussians: whether Gaussians and mixtures of them are members too.
        seed: seed of all random numbers.
        start: models to continue from, one for each member.
        weights: weights (n,) of the rows, with mean 1, or None.
    """
    schema = reader.model_schema
    everything = data_of(x, cond, schema, conditions)
    members: dict[str, list[Any]] = {}
    steps, scores, places = [], [], []
    for k, rows in enumerate(held or [numpy.zeros(len(x), dtype=bool)]):
        seen, unseen = shuffled(~rows, seed + k), torch.from_numpy(numpy.flatnonzero(rows))
        data, validation = everything.subset(seen), everything.subset(unseen) if len(unseen) else None
        own = (None, None) if weights is None else (weights[seen], weights[unseen])
        flow, taken = trained(plan, data, validation, seed + k, weights_of(start[k]) if start else None, own)
        steps.append(taken)
        found: dict[str, Any] = {FLOW: flow}
        if gaussians and validation is not None:
            found |= gaussians_of(data, validation, reader.cells, conditions, seed + k, own)
        for kind, member in found.items():
            members.setdefault(kind, []).append(member)
        if len(unseen):
            part = None if cond is None else cond[unseen]
            each = [torch.stack([log_prob(one, z, part, plan.device) for one in found.values()], 1) for z in reader.spread(x[unseen])]
            scores.append(torch.stack(each))  # (draws, rows, kinds)
            places.append(unseen)
    if not scores:
        return Fitted(Stacked(members, {FLOW: 1.0}), steps, None)
    if gaussians:
        members |= {kind: refitted(kind, members[kind], everything, reader.cells, seed, weights) for kind in members if kind != FLOW}
    together = torch.cat(scores, dim=1)
    counts = None if weights is None else weights[torch.cat(places)]
    shares = stacking_weights(together.flatten(0, 1), None if counts is None else counts.repeat(len(together)))
    value = (together + shares.log()).logsumexp(2).mean(0) - reader.log_volume
    return Fitted(Stacked(members, dict(zip(members, shares.tolist(), strict=True))), steps, value, counts)


def weights_of(model: Any) -> dict[str, Tensor]:
    """Return the weights of a fitted model, in float32 as they are trained."""
    return {name: one.float() if one.is_floating_point() else one for name, one in model.state_dict().items()}
