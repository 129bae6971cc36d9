"""The order of a Runge-Kutta method, determined from its coefficients by the order conditions: one for each rooted tree."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

TOLERANCE = 1e-8  # of a condition: published tables have ten digits or more
HIGHEST = 8  # highest order that is checked: 200 conditions
Tree = tuple  # a rooted tree: the tuple of its branches


def order_of(stages: Sequence[Sequence[float]], weights: Sequence[float]) -> int:
    """Return the highest order, up to 8, whose conditions hold: sum_i b_i phi_i(tree) = 1 / density(tree) for all trees of up to that size.

    phi_i is the product over a tree's branches of sum_j a_ij phi_j(branch); a tree's density is its size times its branches' densities.

    Args:
        stages: the rows of a of an explicit method, for each stage except the first.
        weights: b (s,).

    Source: Hairer, Nørsett and Wanner, Solving ordinary differential equations I, 2nd edition, theorem II.2.13 (Butcher 1963).
    """
    known: dict[Tree, list[float]] = {}

    def phi(tree: Tree) -> list[float]:
        if tree not in known:
            factors = [[_dot(row, phi(branch)) for row in ((), *stages)] for branch in tree]
            known[tree] = [math.prod(column) for column in zip(*factors, strict=True)] or [1.0] * len(weights)
        return known[tree]

    for order in range(1, HIGHEST + 1):
        if any(abs(_dot(weights, phi(tree)) - 1 / density(tree)) > TOLERANCE for tree in trees(order)):
            return order - 1
    return HIGHEST


def _dot(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(weights, values, strict=False))


@functools.cache
def trees(size: int) -> tuple[Tree, ...]:
    """Return all rooted trees with this number of nodes."""
    return tuple(_forests(size - 1, size - 1))


def _forests(size: int, largest: int) -> Iterator[Tree]:
    """Yield the multisets of trees, of at most `largest` nodes each, that have `size` nodes in total."""
    if size == 0:
        yield ()
    for one in range(min(size, largest), 0, -1):
        for count in range(size // one, 0, -1):
            for same in itertools.combinations_with_replacement(trees(one), count):
                for rest in _forests(size - one * count, one - 1):
                    yield (*same, *rest)


def nodes(tree: Tree) -> int:
    """Return the number of nodes."""
    return 1 + sum(map(nodes, tree))


@functools.cache
def density(tree: Tree) -> int:
    """Return the number of nodes times the product of the branches' densities."""
    return nodes(tree) * math.prod(map(density, tree))
