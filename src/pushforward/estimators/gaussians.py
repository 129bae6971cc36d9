"""Gaussians and mixtures of them as members of a density: regularised on held-out rows, then fitted to all."""

import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.estimators.given import Conditions
from pushforward.estimators.reading import shuffled
from pushforward.estimators.weights import repeated
from pushforward.evaluation.baselines import FIT_RIDGES, MIXTURES, refit, selected
from pushforward.evaluation.gaussians import ConditionalSum, GaussianSum, PerClass

FITTED = 4000  # rows that a fit sees, at most
DRAWS = 4  # points of its cell for each row with integers, at most, so that their number is at most HALF
HALF = 2000
COPIES = 4  # of a row with weight 1, of rows with weights
RIDGES = (1e-6, *FIT_RIDGES)  # of the fits of mixtures; the first follows values that repeat, as scikit-learn's default does
LEAST = 3.0  # rows of a component, which would otherwise make an outlier likely


def gaussians_of(
    data: Dataset,
    validation: Dataset,
    cells: numpy.ndarray,
    conditions: Conditions | None,
    seed: int,
    weights: tuple[Tensor | None, Tensor | None] = (None, None),
) -> dict[str, GaussianSum | PerClass | ConditionalSum]:
    """Return a Gaussian and a mixture of them for these rows, regularised on others, given what their density is conditional on.

    Integers are spread over their cells by draws: a mixture that sees their few values as points divides the rows by these. Rows with
    weights, those of `data` and of `validation`, are repeated by these.
    """
    kinds = ["gaussian", "gaussian_mixture"] if math.prod(data.shape) <= MIXTURES else ["gaussian"]
    generator = torch.Generator().manual_seed(seed)
    train, held = (_drawn(one, cells, generator, own)[0] for one, own in zip((data, validation), weights, strict=True))
    if conditions is not None and not conditions.classes:
        given = selected(train, held, generator, [f"{kind}_given" for kind in kinds], RIDGES)
        return {name.removesuffix("_given"): one for name, one in given.items()}
    if conditions is None or not _several_of_each(train, conditions):
        return dict(selected(_alone(train), _alone(held), generator, kinds, RIDGES))
    found = selected(train, held, generator, [f"{kind}_per_class" for kind in kinds], RIDGES)
    return {name.removesuffix("_per_class"): one for name, one in found.items()}


def refitted(
    kind: str, members: Sequence[Any], everything: Dataset, cells: numpy.ndarray, seed: int, weights: Tensor | None = None
) -> list[Any]:
    """Return sums of Gaussians on all rows, with the settings that were best for the rows each member did not see."""
    order = shuffled(numpy.ones(len(everything), dtype=bool), seed)
    rows, own = everything.subset(order), None if weights is None else weights[order]
    found: list[Any] = []
    for k, one in enumerate(members):
        generator = torch.Generator().manual_seed(seed + k)
        data, draws = _drawn(rows, cells, generator, own)
        if isinstance(one, ConditionalSum):
            found.append(refit(f"{kind}_given", one.chosen, data, generator, LEAST * draws))
        elif isinstance(one, PerClass):
            found.append(refit(f"{kind}_per_class", one.chosen, data, generator, LEAST * draws))
        else:
            found.append(refit(kind, one.chosen, _alone(data), generator, LEAST * draws))
    return found


def _drawn(data: Dataset, cells: numpy.ndarray, generator: torch.Generator, weights: Tensor | None = None) -> tuple[Dataset, float]:
    """Return rows as real numbers, those of integers at several points of their cells, and how often one is there on average."""
    data = data.take(min(FITTED, len(data)))
    copies = 1.0
    if weights is not None:
        some = weights[: len(data)].numpy()
        of = repeated(some, min(FITTED, COPIES * len(data)))
        copies, data = len(of) / len(data), data.subset(of.tolist())
    draws = max(1, min(DRAWS, HALF // len(data))) if cells.any() else 1
    x = data.x.double().repeat(draws, 1)
    x += torch.rand(x.shape, generator=generator, dtype=x.dtype) * torch.from_numpy(cells)
    cond = None if data.cond is None else data.cond.repeat(draws, *(1,) * (data.cond.ndim - 1))
    return Dataset(data.name, x, cond, classes=data.classes), draws * copies


def _several_of_each(data: Dataset, conditions: Conditions) -> bool:
    """Return whether each class has enough rows for a covariance of its own."""
    assert data.cond is not None
    return int(data.cond.bincount(minlength=conditions.classes).min()) >= 2


def _alone(data: Dataset) -> Dataset:
    return Dataset(data.name, data.x)
