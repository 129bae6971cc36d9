"""The adjoint of an ODE: gradients by a second ODE, solved backward in time, in memory that does not grow with the steps.

With a = d loss / d x_t, the pair (x, a) solves dx/dt = f and da/dt = -a' df/dx from t1 to t0, and the gradients of args and parameters are

    d loss / d args = integral from t0 to t1 of a' df/dargs dt,    d loss / d parameters likewise, summed over the samples.

The integrals are weighted sums over the stages of the same method and are not part of its error control, as nothing depends on them.
All samples share one step size, so that one backward pass through f serves all of its parameters.

Source: Chen et al., Neural ordinary differential equations, 1806.07366, algorithm 1; Kidger, Chen and Lyons, 2009.09457, for the norm.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

from pushforward._precision import wide
from pushforward.errors import SolverError
from pushforward.fields import Field, fitting, in_its_autocast
from pushforward.held import leaves_in, leaves_of, reachable
from pushforward.tableaux import Tableau


@dataclass(frozen=True)
class Backwards:
    """Settings of the adjoint solve: `times` from t1 to t0 (two if the steps adapt), method, tolerances.

    With `log` the times are logarithms; messages state t itself.
    """

    times: Sequence[float]
    tableau: Tableau
    adaptive: bool = False
    rtol: float = 0.0
    atol: float = 0.0
    max_steps: int = 10_000
    log: bool = False


def solve_with_adjoint(
    solve: Callable[[Tensor, tuple[Any, ...]], Tensor], f: Field, x: Tensor, args: tuple[Any, ...], back: Backwards
) -> Tensor:
    """Return solve(x, args) with gradients from the adjoint, for x, for the tensors in args and for the parameters of f."""
    if not torch.is_grad_enabled():
        return solve(x, args)
    leaves, tree = tree_flatten(args)
    places = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    objects = list(reachable(f))
    field = _Field(in_its_autocast(f, x)[0], leaves, tree, places, objects)
    parameters = _parameters(objects, field, x, _looked_at(back))
    return _Adjoint.apply(solve, field, back, args, len(places), x, *(leaves[k] for k in places), *parameters)


class _Field:
    """f(x, t, *args) as a function of x, t and the leaves of args that have gradients."""

    def __init__(self, f: Field, leaves: list[Any], tree: Any, places: list[int], objects: Sequence[Any]) -> None:
        self.f, self.leaves, self.tree, self.places = f, leaves, tree, places
        tables: list[dict[str, Any]] = [table for one in objects if isinstance(one, nn.Module) for table in (one._parameters, one._buffers)]
        self.tensors = [(table, dict(table)) for table in tables if table]

    @contextlib.contextmanager
    def as_solved(self) -> Iterator[None]:
        """Within it, modules have the tensors of the solve, where `torch.func.functional_call` had replaced their own.

        Shards (DTensor, known by its method) are left alone: their modules gather them for each call.
        """
        changed = [
            (table, name, one, table[name])
            for table, tensors in self.tensors
            for name, one in tensors.items()
            if table.get(name, one) is not one and not hasattr(table[name], "full_tensor")
        ]
        try:
            for table, name, solved, _ in changed:
                table[name] = solved
            yield
        finally:
            for table, name, _, own in changed:
                table[name] = own

    def __call__(self, x: Tensor, t: float, given: Sequence[Tensor]) -> Tensor:
        leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        for place, one in zip(self.places, given, strict=True):
            leaves[place] = one
        times = torch.full((x.shape[0],), t, dtype=wide(x), device=x.device)
        value = self.f(x, times, *tree_unflatten(leaves, self.tree))
        return fitting(self.f, value, x)[1]


def _looked_at(back: Backwards) -> list[float]:
    """Return the times at which to inspect the field's graph: both ends, then the stages of the first, the middle and the last step."""
    times, nodes = back.times, back.tableau.plan.nodes
    steps = list(itertools.pairwise(times))
    if back.adaptive:  # steps are not known in advance: thirds of the interval
        (start, end) = steps[0]
        knots = [start + (end - start) * k / 3 for k in range(4)]
        steps = list(itertools.pairwise(knots))
    chosen = [steps[0], steps[len(steps) // 2], steps[-1]]
    return list(dict.fromkeys((times[0], times[-1], *(t + c * (s - t) for t, s in chosen for c in nodes))))


def _parameters(objects: Sequence[Any], field: _Field, x: Tensor, times: Sequence[float]) -> list[Tensor]:
    """Return the tensors with gradients that a field may use: those of the objects that it reaches, and leaves of its graph at some times.

    If the graphs at both ends contain no unreachable tensors, no other times are inspected. A tensor that Python cannot reach and that is
    not used at one of these times is not found, such as one that a compiled extension only uses in the middle of the interval.
    """
    found = {id(one): one for one in leaves_in(objects)}
    given = [leaf.detach() for leaf in (field.leaves[k] for k in field.places)]
    held = set(found)
    for k, t in enumerate(times):
        if k == 2 and held == set(found):
            break
        with torch.enable_grad():
            found.update((id(one), one) for one in leaves_of(field(x.detach(), t, given)))
    return list(found.values())


class _Adjoint(torch.autograd.Function):
    """The solve as one node of autograd's graph: it stores only the end of the trajectory."""

    @staticmethod
    def forward(
        ctx: Any, solve: Any, field: _Field, back: Backwards, args: tuple[Any, ...], given: int, x: Tensor, *tensors: Tensor
    ) -> Tensor:
        end = solve(x, args)
        ctx.field, ctx.back, ctx.given = field, back, given
        ctx.save_for_backward(end, *tensors)
        return end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        end, *tensors = ctx.saved_tensors
        with ctx.field.as_solved():
            by_x, sums = _Run(ctx.field, tensors[: ctx.given], tensors[ctx.given :], ctx.back).run(end, gradient)
        return None, None, None, None, None, by_x, *sums


State = tuple[Tensor, Tensor]


class _Run:
    """One solve of the pair (x, a) backward in time, with the integrals for args and parameters."""

    def __init__(self, field: _Field, given: Sequence[Tensor], parameters: Sequence[Tensor], back: Backwards) -> None:
        self.field, self.given, self.parameters, self.back = field, given, parameters, back
        self.sources = [*given, *parameters]
        self.sums: list[Tensor | None] = [None] * len(self.sources)

    def run(self, x: Tensor, a: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the gradients with respect to the initial state and all sources, None for an unused source."""
        state = (x, a)
        if x.numel() == 0:
            return a, [torch.zeros_like(one) for one in self.sources]
        if self.back.adaptive:
            state = self.adaptive(state)
        else:
            for t, s in itertools.pairwise(self.back.times):
                state, sums, _, _ = self.step(state, t, s - t)
                self.take(sums)
        return state[1], self.sums

    def rates(self, state: State, t: float) -> tuple[State, list[Tensor | None]]:
        """Return d(x, a)/dt, and minus the rates of the integrals, as time runs backward."""
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            given = [one.detach().requires_grad_() for one in self.given]
            value = self.field(x, t, given)
        sources = [x, *given, *self.parameters]
        if not value.requires_grad:
            return (value, torch.zeros_like(state[1])), [None] * len(self.sources)
        found = torch.autograd.grad(value, sources, state[1], retain_graph=True, allow_unused=True)
        by_x = torch.zeros_like(state[1]) if found[0] is None else -found[0]
        return (value.detach(), by_x), [None if one is None else -one for one in found[1:]]

    def step(self, state: State, t: float, h: float, first: Any = None) -> tuple[State, list[Tensor | None], State, Any]:
        """Return the state after a step, its contribution to the integrals, its error, and the rates at its end if the method has them."""
        tableau, adaptive = self.back.tableau, self.back.adaptive
        slopes: list[State] = []
        added: list[Tensor | None] = [None] * len(self.sums)
        at = state
        for k, node in enumerate(tableau.nodes if adaptive else tableau.plan.nodes):
            if k:
                at = _moved(state, h, tableau.stages[k - 1], slopes)
            slope, rates = first if k == 0 and first is not None else self.rates(at, t + node * h)
            slopes.append(slope)
            if tableau.weights[k]:
                _add(added, rates, h * tableau.weights[k])
        if adaptive and tableau.fsal:
            after, last = at, (slope, rates)
        else:
            after, last = _moved(state, h, tableau.weights, slopes), None
        error = _moved((torch.zeros_like(state[0]), torch.zeros_like(state[1])), h, tableau.error, slopes) if adaptive else state
        return after, added, error, last

    def take(self, added: list[Tensor | None]) -> None:
        _add(self.sums, added, 1.0)

    def adaptive(self, state: State) -> State:
        """Step until t0 with one step size for all, such that the worst sample's error meets the tolerance."""
        t, end = self.back.times[0], self.back.times[-1]
        span, smallest = (
            abs(end - t),
            4 * torch.finfo(wide(state[0])).eps * max(abs(t), abs(end), 1e-30),
        )
        size, sign, first = 0.01 * span, math.copysign(1.0, end - t), None
        power = 1 / (1 + min(self.back.tableau.order, self.back.tableau.error_order))
        for _ in range(self.back.max_steps):
            h = min(size, abs(end - t))
            after, sums, error, last = self.step(state, t, sign * h, first)
            ratio = self.ratio(state, after, error)
            worst = float(ratio.max())
            if worst <= 1:
                self.take(sums)
                t, state, first = (end if h == abs(end - t) else t + sign * h), after, last
                if t == end:
                    return state
            elif not (math.isfinite(worst) and h > smallest):
                row = int((~(ratio <= 1)).nonzero()[0, 0])
                why = "the step became too small" if math.isfinite(worst) else "the field or its derivative is not finite"
                raise SolverError(
                    f"the adjoint stops at t = {self.named(t):.6g} in sample {row}: {why}; use adjoint=False, or loosen rtol and atol."
                )
            size = h * min(10.0, max(0.2, 0.9 * max(worst, 1e-10) ** -power))
        raise SolverError(
            f"the adjoint took {self.back.max_steps} steps, only to t = {self.named(t):.6g}; loosen rtol and atol, or raise max_steps."
        )

    def ratio(self, before: State, after: State, error: State) -> Tensor:
        """Return each sample's error in units of the tolerance (n,), the larger of that of x and that of its gradient.

        A gradient has units of loss over state, so its atol is relative to its largest entry at the start of the step.
        """
        ratios = []
        for one, two, wrong, unit in zip(before, after, error, (1.0, self.unit(before)), strict=True):
            scale = torch.maximum(one.abs(), two.abs()).mul(self.back.rtol).add(self.back.atol * unit)
            ratios.append((wrong / scale).abs().reshape(len(one), -1).square().mean(1).sqrt())
        return torch.maximum(*ratios)

    def named(self, t: float) -> float:
        return math.exp(t) if self.back.log else t

    def unit(self, state: State) -> float:
        return max(float(state[1].abs().max()), torch.finfo(state[1].dtype).tiny)


def _add(sums: list[Tensor | None], more: Sequence[Tensor | None], weight: float) -> None:
    """Add a multiple of each rate that is not None."""
    for k, one in enumerate(more):
        if one is not None:
            before = sums[k]
            sums[k] = one * weight if before is None else before.add_(one, alpha=weight)


def _moved(state: State, h: float, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """Return state + h times the weighted sum of the slopes."""
    moved = []
    for part, one in enumerate(state):
        total = one
        for weight, slope in zip(weights, slopes, strict=False):
            if weight:
                total = torch.add(total, slope[part], alpha=h * weight)
        moved.append(total)
    return moved[0], moved[1]
