"""A Runge-Kutta method is one record of numbers, used by fixed steps, adaptive steps, the adjoint and the divergence."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.order_conditions import TOLERANCE, order_of
from pushforward.registry import export

# A weighted sum of slopes: each weight with all its slopes, which are added before they are multiplied.
Sum = tuple[tuple[float, tuple[int, ...]], ...]
Step = Callable[[Sequence[Callable[[Tensor, Tensor], Tensor]], Tensor, float, Sequence[Tensor], Tensor], Tensor]


class Plan(NamedTuple):
    """The computation of a fixed step: without zeros, and without stages that only the error or the next step needs."""

    nodes: tuple[float, ...]
    rows: tuple[Sum, ...]  # of each stage but the first
    weights: Sum


@export("ode.Tableau")
@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method.

        k_i = f(x + h sum_j a_ij k_j, t + c_i h),    x' = x + h sum_i b_i k_i,    error = h sum_i e_i k_i

    Args:
        nodes: c (s,), the first of which is 0.
        stages: the rows of a for each stage but the first: one number, then two, up to s - 1.
        weights: b (s,).
        error: e (s,), b minus the weights of the embedded method; empty if there is none, and the method takes fixed steps only.
        name: name for messages.

    Raises:
        UserError: rows of the wrong length, a node that is not the sum of its row, weights that do not sum to 1, or error weights not to 0.

    Example:
        >>> ralston = Tableau(nodes=(0, 2 / 3), stages=((2 / 3,),), weights=(1 / 4, 3 / 4))
        >>> ralston.order, ralston.evaluations
        (2, 2)

    Source: Hairer, Nørsett and Wanner, Solving ordinary differential equations I, 2nd edition, section II.1.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...] = ()
    name: str = field(default="the method", compare=False)
    plan: Plan = field(init=False, repr=False, compare=False)
    step: Step = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key in ("nodes", "weights", "error"):
            object.__setattr__(self, key, tuple(float(one) for one in getattr(self, key)))
        object.__setattr__(self, "stages", tuple(tuple(float(one) for one in row) for row in self.stages))
        self._check()
        object.__setattr__(self, "plan", self._plan())
        object.__setattr__(self, "step", _written_out(self.plan))

    def __reduce__(self) -> tuple[Any, ...]:
        return Tableau, (self.nodes, self.stages, self.weights, self.error, self.name)

    def _check(self) -> None:
        s = len(self.weights)
        if s == 0 or len(self.nodes) != s or len(self.stages) != s - 1:
            raise UserError(
                f"the tableau has {len(self.nodes)} nodes, {len(self.stages)} stages and {s} weights, but s weights need s nodes and s - 1 "
                "rows of stages; leave out the first stage's empty row."
            )
        for k, (node, row) in enumerate(zip(self.nodes, ((), *self.stages), strict=True)):
            if len(row) != k:
                raise UserError(
                    f"stage {k + 1} of the tableau reads {len(row)} slopes, but an explicit method's reads the {k} before it; pad with 0."
                )
            if not abs(math.fsum(row) - node) < TOLERANCE:
                raise UserError(f"node {k + 1} of the tableau is {node:g}, but its row sums to {math.fsum(row):g}; they must be equal.")
        if not abs(math.fsum(self.weights) - 1) < TOLERANCE:
            raise UserError(f"the tableau's weights sum to {math.fsum(self.weights):g}, but they must sum to 1; check them.")
        if self.error and not (len(self.error) == s and abs(math.fsum(self.error)) < TOLERANCE):
            raise UserError(
                f"the tableau's {len(self.error)} error weights sum to {math.fsum(self.error):g}, but {s} that sum to 0 are needed: the "
                "weights less those of the embedded method."
            )

    def _plan(self) -> Plan:
        used = max(k for k, weight in enumerate(self.weights) if weight) + 1  # an explicit stage uses only the slopes before it
        rows = tuple(_sum(row) for row in self.stages[: used - 1])
        return Plan(self.nodes[:used], rows, _sum(self.weights))

    @property
    def evaluations(self) -> int:
        """Evaluations of a fixed step."""
        return len(self.plan.nodes)

    @functools.cached_property
    def fsal(self) -> bool:
        """Whether the last stage is evaluated at the step's end, so that its slope is the next step's first (first same as last)."""
        return len(self.stages) > 0 and self.nodes[-1] == 1 and self.weights == (*self.stages[-1], 0.0)

    @functools.cached_property
    def order(self) -> int:
        """Order of convergence, by the conditions of order up to 8."""
        return order_of(self.stages, self.weights)

    @functools.cached_property
    def error_order(self) -> int:
        """Order of the embedded method: with p, the estimated error of a step is O(h^(p + 1))."""
        return order_of(self.stages, [b - e for b, e in zip(self.weights, self.error, strict=True)]) if self.error else 0


def _sum(row: Sequence[float]) -> Sum:
    places: dict[float, list[int]] = {}
    for k, weight in enumerate(row):
        if weight:
            places.setdefault(weight, []).append(k)
    return tuple((weight, tuple(slopes)) for weight, slopes in places.items())


def _written_out(plan: Plan) -> Step:
    """Return a step as generated code without loops, such as `k1 = f1(add(x, k0, alpha=h * 0.5), at[1])`.

    Loops over coefficients would cost a tenth of the time of a small field. It is called as step(later, x, h, at, k0), where `later` are
    the functions of all stages except the first, `at` the times of all stages and k0 the first slope.
    """

    def moved(row: Sum) -> str:
        text = "x"
        for weight, slopes in row:
            text = f"add({text}, {' + '.join(f'k{k}' for k in slopes)}, alpha=h * {weight!r})"
        return text

    lines = [f"k{k} = later[{k - 1}]({moved(row)}, at[{k}])" for k, row in enumerate(plan.rows, 1)]
    space: dict[str, Any] = {"add": torch.add}
    source = "\n    ".join(("def step(later, x, h, at, k0):", *lines, f"return {moved(plan.weights)}"))
    exec(compile(source, "<pushforward.tableaux>", "exec"), space)  # a name that debug tools recognise as no line of a file
    return space["step"]
