"""How a density is fitted: parts of the rows held out, flows and mixtures of Gaussians on the others, and their weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.estimators.given import Conditions
from pushforward.estimators.members import Plan, data_of, trained
from pushforward.estimators.reading import Reader
from pushforward.estimators.stacking import Stacked, log_prob, stacking_weights
from pushforward.evaluation.baselines import MIXTURES, fit_baselines, refit
from pushforward.evaluation.gaussians import ConditionalSum, GaussianSum, PerClass

FITTED = 4000  # rows that mixtures of Gaussians are fitted to, at most
LEAST = 3.0  # of the rows of a component
FLOW = "flow"


@dataclass(frozen=True)
class Fitted:
    """A fitted density.

    Attributes:
        density: the members with their weights.
        steps: the steps that each flow took.
        held_out: log-densities (n,) of the held-out rows, by members that did not see them; None where no rows were.
    """

    density: Stacked
    steps: list[int]
    held_out: Tensor | None


def held_out_rows(n: int, members: int, fraction: float, cond: Tensor | None, seed: int) -> list[numpy.ndarray]:
    """Return which rows (n,) each member does not see: parts of equal size for several members, a fraction for one.

    Classes are divided equally.
    """
    order = numpy.random.RandomState(seed).permutation(n)
    if cond is not None and cond.ndim == 1:
        order = order[numpy.argsort(cond.numpy()[order], kind="stable")]
    place = numpy.empty(n, dtype=numpy.int64)
    place[order] = numpy.arange(n)
    if members > 1:
        return [place % members == k for k in range(members)]
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
    """
    schema = reader.model_schema
    everything = data_of(x, cond, schema, conditions)
    members: dict[str, list[Any]] = {}
    steps, scores, places = [], [], []
    for k, rows in enumerate(held or [numpy.zeros(len(x), dtype=bool)]):
        seen, unseen = shuffled(~rows, seed + k), torch.from_numpy(numpy.flatnonzero(rows))
        data, validation = everything.subset(seen), everything.subset(unseen) if len(unseen) else None
        weights = weights_of(start[k]) if start else None
        flow, taken = trained(plan, data, validation, seed + k, weights)
        steps.append(taken)
        found = {FLOW: flow}
        if gaussians and validation is not None:
            found |= gaussians_of(data, validation, conditions, seed + k)
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
        members |= {kind: refitted(kind, members[kind], everything, conditions, seed) for kind in members if kind != FLOW}
    together = torch.cat(scores, dim=1)
    shares = stacking_weights(together.flatten(0, 1))
    value = (together + shares.log()).logsumexp(2).mean(0) - reader.log_volume
    return Fitted(Stacked(members, dict(zip(members, shares.tolist(), strict=True))), steps, value)


def shuffled(rows: numpy.ndarray, seed: int) -> list[int]:
    """Return the numbers of these rows in random order: parts of them are used by their place."""
    found: list[int] = numpy.random.RandomState(seed).permutation(numpy.flatnonzero(rows)).tolist()
    return found


def weights_of(model: Any) -> dict[str, Tensor]:
    """Return the weights of a fitted model, in float32 as they are trained."""
    return {name: one.float() if one.is_floating_point() else one for name, one in model.state_dict().items()}


def gaussians_of(data: Dataset, validation: Dataset, conditions: Conditions | None, seed: int) -> dict[str, Any]:
    """Return a Gaussian and a mixture of them for these rows, regularised on others, given what their density is conditional on."""
    kinds = ["gaussian", "gaussian_mixture"] if math.prod(data.shape) <= MIXTURES else ["gaussian"]
    generator = torch.Generator().manual_seed(seed)
    data = data.take(min(FITTED, len(data)))
    if conditions is not None and not conditions.classes:
        joint = fit_baselines(_joint(data), _joint(validation), generator, only=kinds)
        return {kind: ConditionalSum(one, data.shape[0]) for kind, one in joint.items() if isinstance(one, GaussianSum)}
    if conditions is None or not _several_of_each(data, conditions):
        return dict(fit_baselines(_bare(data), _bare(validation), generator, only=kinds))
    found = fit_baselines(data, validation, generator, only=[f"{kind}_per_class" for kind in kinds])
    return {name.removesuffix("_per_class"): one for name, one in found.items()}


def refitted(kind: str, members: Sequence[Any], everything: Dataset, conditions: Conditions | None, seed: int) -> list[Any]:
    """Return sums of Gaussians on all rows, with the settings that were best for the rows each member did not see."""
    data = everything.subset(shuffled(numpy.ones(len(everything), dtype=bool), seed)).take(min(FITTED, len(everything)))
    found: list[Any] = []
    for k, one in enumerate(members):
        generator = torch.Generator().manual_seed(seed + k)
        if isinstance(one, ConditionalSum):
            joint = refit(kind, one.joint.chosen, _joint(data), generator, LEAST)
            assert isinstance(joint, GaussianSum)
            found.append(ConditionalSum(joint, one.features))
        elif isinstance(one, PerClass):
            found.append(refit(f"{kind}_per_class", one.chosen, data, generator, LEAST))
        else:
            found.append(refit(kind, one.chosen, _bare(data), generator, LEAST))
    return found


def _several_of_each(data: Dataset, conditions: Conditions) -> bool:
    """Return whether each class has enough rows for a covariance of its own."""
    assert data.cond is not None
    return int(data.cond.bincount(minlength=conditions.classes).min()) >= 2


def _bare(data: Dataset) -> Dataset:
    return Dataset(data.name, data.x, levels=data.levels)


def _joint(data: Dataset) -> Dataset:
    assert data.cond is not None
    levels = data.levels if isinstance(data.levels, tuple) else (data.levels,) * data.shape[0]
    return Dataset(data.name, torch.cat((data.x, data.cond), dim=1), levels=(*levels, *(None,) * data.cond.shape[1]))
