"""Couplings of data and noise within a training batch.

A pairing is a frozen object called as pairing(x, noise, cond, generator) that returns the three with the noise permuted. The data
stays in place, so every condition stays with its own data. If `generator` is a list, the rows of each generator form a block, and nothing
is paired across blocks: the result does not depend on how blocks are distributed over processes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import CheckedNumbers
from pushforward.errors import ConditionError
from pushforward.registry import export, namespace

namespace(__name__)


class Pairing(CheckedNumbers):
    """A rule for pairing data with noise; to add one, implement `permutation`."""

    def permutation(self, x: Tensor, noise: Tensor, cond: Any, generator: torch.Generator | None) -> Tensor | None:
        """Return for each row of x the index of its noise row, (n,), or None for the identity."""
        raise NotImplementedError

    def __call__(self, x: Tensor, noise: Tensor, cond: Any = None, generator: _random.Generators = None) -> tuple[Tensor, Tensor, Any]:
        """Return (x, noise, cond) with the noise permuted; shapes (n, *shape)."""
        parts = []
        for rows, one in _random.blocks(generator, x.shape[0]):
            part = noise[rows]
            order = self.permutation(x[rows], part, None if cond is None else cond[rows], one)
            parts.append(part if order is None else part[order])
        return x, parts[0] if len(parts) == 1 else torch.cat(parts), cond


@export("pairings.Independent", example=lambda: Independent())
@dataclass(frozen=True)
class Independent(Pairing):
    """Independent coupling: each data point keeps the noise drawn for it."""

    def permutation(self, x: Tensor, noise: Tensor, cond: Any, generator: torch.Generator | None) -> None:
        return None


@export("pairings.MinibatchOT", example=lambda: MinibatchOT())
@dataclass(frozen=True)
class MinibatchOT(Pairing):
    """Minibatch optimal transport: minimise the sum of squared distances in the batch, for straighter trajectories.

        min over permutations p of sum_i |x_i - noise_p(i)|² + weight |c_i - c_p(i)|²

    If the condition is ignored, optimal transport selects noise by class: a condition is then no longer paired with the full noise
    distribution, and conditional samples get worse. With `condition="match"`, each noise row is assigned the condition of its own row;
    labels must agree exactly, vectors cost `weight` times their squared distance.

    Args:
        condition: "match" takes the condition into account, "ignore" does not (plain OT, for unconditional models).
        weight: cost of a condition mismatch, in squared units of x per squared unit of the condition; labels never mismatch.

    Source: Tong et al., 2302.00482 (OT-CFM); Cheng and Schwing, 2503.10636 (C2OT) for the condition.
    """

    condition: Literal["match", "ignore"] = "match"
    weight: float = 100.0

    def permutation(self, x: Tensor, noise: Tensor, cond: Any, generator: torch.Generator | None) -> Tensor:
        if cond is None or self.condition == "ignore":
            return _assign(_squared_distances(x, noise))
        if not isinstance(cond, Tensor):
            raise ConditionError(
                f"MinibatchOT(condition='match') needs labels or vectors, but cond is a {type(cond).__name__}; use condition='ignore'."
            )
        if cond.is_floating_point():
            return _assign(_squared_distances(x, noise) + self.weight * _squared_distances(cond, cond))
        order = torch.arange(x.shape[0], device=x.device)
        for label in cond.unique():
            rows = (cond == label).nonzero()[:, 0]
            order[rows] = rows[_assign(_squared_distances(x[rows], noise[rows]))]
        return order


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.detach().flatten(1).double(), b.detach().flatten(1).double()
    return torch.cdist(a.cpu(), b.cpu()) ** 2


def _assign(cost: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment  # importing scipy takes 0.2 s, and only this function needs it

    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])
