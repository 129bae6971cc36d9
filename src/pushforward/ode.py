"""Solving dx/dt = f(x, t) by any Runge-Kutta method: in fixed steps, or in steps that adapt for each sample (`adaptive`).

Steps, stage times and coefficients are Python floats or rows computed before the loop: a fixed step creates no tensors except states and
slopes, and never synchronises. Gradients go through the steps (discretise, then optimise), or come from the adjoint ODE (`adjoint`).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from pushforward._precision import wide
from pushforward.adaptive import adaptive_states
from pushforward.adjoint import Backwards, solve_with_adjoint
from pushforward.errors import UserError
from pushforward.events import Event, Stopped, adaptive_until, differentiable, fixed_until
from pushforward.fields import WIDE, Field, casting, fitting, widened
from pushforward.methods import METHODS
from pushforward.registry import export, namespace, unknown
from pushforward.tableaux import Tableau

namespace(__name__)
Method = Literal["euler", "midpoint", "heun", "rk4", "bosh3", "dopri5", "tsit5", "dopri8"]
Rates = Callable[[Tensor, Tensor], tuple[Tensor, Sequence[Tensor]]]
TIMES_AT_ONCE = 1 << 20  # largest table of stage times


@overload
def odeint(
    f: Field,
    x: Tensor,
    t0: float,
    t1: float | Sequence[float] | Tensor,
    args: tuple[Any, ...] = ...,
    method: Method | Tableau = ...,
    *,
    rtol: float = ...,
    atol: float = ...,
    steps: int | None = ...,
    max_steps: int = ...,
    adjoint: bool = ...,
    event: None = ...,
) -> Tensor: ...


@overload
def odeint(
    f: Field,
    x: Tensor,
    t0: float,
    t1: float | Sequence[float] | Tensor,
    args: tuple[Any, ...] = ...,
    method: Method | Tableau = ...,
    *,
    rtol: float = ...,
    atol: float = ...,
    steps: int | None = ...,
    max_steps: int = ...,
    adjoint: bool = ...,
    event: Event,
) -> Stopped: ...


@export("ode.odeint")
def odeint(
    f: Field,
    x: Tensor,
    t0: float,
    t1: float | Sequence[float] | Tensor,
    args: tuple[Any, ...] = (),
    method: Method | Tableau = "dopri5",
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int | None = None,
    max_steps: int = 10_000,
    adjoint: bool = False,
    event: Event | None = None,
) -> Tensor | Stopped:
    """Return the solution at t1 of dx/dt = f(x, t, *args) with initial state x at t0.

    Args:
        f: called as f(x, t, *args) with x (n, *shape) and t (n,); returns dx/dt (n, *shape). Rows must be independent of each other.
            Under autocast only f runs in lower precision.
        x: state at t0 (n, *shape), real or complex; it is not modified. A 16-bit state is solved in float32.
        t0: start time.
        t1: end time, before or after t0; or the times (T,) at which to return states, a monotone sequence or tensor leading away from t0.
        args: per-sample arguments of f, such as conditions: tensors, or pytrees of them, with leading dimension n. When samples that
            have reached t1 leave the batch, args are indexed together with x; so pass them here, not in a closure.
        method: "bosh3", "dopri5", "tsit5" or "dopri8", which adapt their steps; "euler", "midpoint", "heun" or "rk4" with `steps`; or a
            Tableau, which takes fixed steps if `steps` is given and otherwise adapts them by its error weights.
        rtol: relative tolerance of an adaptive method.
        atol: absolute tolerance of an adaptive method, in units of the state. A step of a sample is accepted if the root mean square
            over its event of error / (atol + rtol |x|) is at most 1.
        steps: number of equal steps of a fixed-step method; if t1 is several times, each interval gets its share, rounded up.
        max_steps: maximum number of attempted steps of an adaptive method between two times.
        adjoint: whether gradients come from the adjoint ODE, solved backward in time by the same method: memory does not grow with the
            steps, and each step costs two evaluations and a backward pass of f. They are those of the exact solution, up to the method's
            error, for x, for the tensors in args and for all parameters of f (see `adjoint`); x is recomputed backward in time, which is
            inaccurate where f contracts strongly. False differentiates through the steps, which is exact and faster, but stores the
            activations of each step.
        event: called as event(x, t, *args), returns (n,): a sample stops where this changes sign. Two sign changes within one step are
            missed, and a sample that starts at 0 stops at the next sign change.

    Returns:
        State at t1 (n, *shape), or states at its times (T, n, *shape). With `event`, Stopped(x, t, happened): each sample's last state and
        time, differentiable with respect to x, args and parameters, and whether the event happened; otherwise the sample ends at t1.

    Raises:
        UserError: unknown method, times that are not monotone, or steps missing, not positive or given to an adaptive method.
        DtypeError: an integer state, or a complex field for a real state.
        ShapeError: f returns a shape other than x's.
        SolverError: in an adaptive method the field is not finite, a step became too small, or max_steps is exceeded; the message states t
            and the sample.

    Example:
        >>> x = odeint(lambda x, t: -x, torch.ones(3, 2), 0.0, 1.0, rtol=1e-6, atol=1e-6)
        >>> torch.allclose(x, torch.full((3, 2), math.exp(-1)), atol=1e-5)
        True
        >>> odeint(lambda x, t: -x, torch.ones(3, 2), 0.0, [0.0, 0.5, 1.0]).shape
        torch.Size([3, 3, 2])
        >>> fall = odeint(lambda x, t: -torch.ones_like(x), torch.ones(3), 0.0, 9.0, event=lambda x, t: x - 0.5)
        >>> fall.t, fall.happened
        (tensor([0.5000, 0.5000, 0.5000]), tensor([True, True, True]))

    Source: Hairer, Nørsett and Wanner, Solving ordinary differential equations I, 2nd edition, chapter II; Chen et al., 1806.07366
    (adjoint); Chen, Amos and Nickel, 2011.03902 (events).
    """
    tableau = _tableau(method, steps)
    start, ends = float(t0), _ends(t0, t1)
    several = not isinstance(t1, int | float) and not (isinstance(t1, Tensor) and t1.dim() == 0)
    control: dict[str, Any] = {"rtol": rtol, "atol": atol, "max_steps": max_steps}
    if event is not None:
        if several:
            raise UserError("event is given and t1 is several times, but an event stops each sample at its own; give one end time.")
        options: dict[str, Any] = {**control, "steps": steps, "adjoint": adjoint}
        if steps is None:
            found = adaptive_until(event, f, x, start, ends[0], args, tableau, **control)
        else:
            found = fixed_until(event, f, x, _equal(start, ends[0], steps), tableau, args)
        return differentiable(event, found, f, x, start, args, lambda f, x, s, t, args: odeint(f, x, s, t, args, method, **options))
    if steps is not None:
        span = abs(ends[-1] - start)
        states = []
        for s, t in itertools.pairwise([start, *ends]):
            share = max(1, math.ceil(steps * abs(t - s) / span - 1e-9)) if span else 1
            x = fixed_steps(f, x, _equal(s, t, share), tableau, args, adjoint)
            states.append(x)
    else:
        states = adaptive_states(f, x, start, ends, args, tableau, adjoint=adjoint, **control)
    return torch.stack(states) if several else states[0]


def _tableau(method: str | Tableau, steps: int | None) -> Tableau:
    if not isinstance(method, Tableau) and method not in METHODS:
        raise UserError(unknown("method", str(method), METHODS))
    tableau = method if isinstance(method, Tableau) else METHODS[method]
    if steps is not None and method is not tableau and tableau.error:
        raise UserError(f"steps is {steps}, but {method} chooses its own; give rtol and atol, or a fixed-step method such as method='rk4'.")
    if (steps is None and not tableau.error) or (steps is not None and steps < 1):
        raise UserError(f"steps is {steps}, but {tableau.name} needs at least 1; try steps=20.")
    return tableau


def _ends(t0: float, t1: Any) -> list[float]:
    """Return the times at which to return states."""
    ends = [float(t1)] if isinstance(t1, int | float) else torch.as_tensor(t1).double().reshape(-1).tolist()
    for a, b in itertools.pairwise([t0, *ends]):
        if not (b - a) * (ends[-1] - t0) >= 0 or (a != b and ends[-1] == t0):
            raise UserError(f"t1 goes from {a:g} to {b:g} between t0 = {t0:g} and {ends[-1]:g}, but times must be monotone; sort them.")
    if not ends:
        raise UserError("t1 is empty, but at least one time is needed; give one number for the state at its end.")
    return ends


def _equal(t0: float, t1: float, steps: int) -> list[float]:
    return [t0 + (t1 - t0) * k / steps for k in range(steps)] + [t1]


def fixed_steps(f: Field, x: Tensor, times: Sequence[float], tableau: Tableau, args: tuple[Any, ...] = (), adjoint: bool = False) -> Tensor:
    """Return the state after stepping f(x, t, *args) through `times` (k + 1 numbers)."""
    if x.dtype not in WIDE:
        call, wide = widened(f, x)
        return fixed_steps(call, wide, times, tableau, args, adjoint).to(x.dtype)
    if adjoint:
        back = Backwards(tuple(reversed(times)), tableau)
        return solve_with_adjoint(lambda x, args: fixed_steps(f, x, times, tableau, args), f, x, args, back)
    if args:
        return fixed_steps(lambda x, t: f(x, t, *args), x, times, tableau)
    return _stepped([f] * tableau.evaluations, x, times, tableau)


def fixed_steps_with_rates(f: Field, rates: Rates, x: Tensor, times: Sequence[float], tableau: Tableau) -> tuple[Tensor, list[Tensor]]:
    """Return the same, and the time integrals of additional rates, by the method's own weights.

    Args:
        f: called as f(x, t) for stages whose weight is 0, such as the first of the midpoint method, so that half of its divergences
            are not computed.
        rates: called as rates(x, t) for all other stages; returns dx/dt and the rates, each (n,).
        x: state at times[0] (n, *shape), at least 32 bits.
        times: k + 1 numbers.
        tableau: the method.
    """
    entries: list[Sequence[Tensor]] = []

    def noted(x: Tensor, t: Tensor) -> Tensor:
        value, more = rates(x, t)
        entries.append(more)
        return value

    weights = tableau.weights[: tableau.evaluations]
    x = _stepped([noted if weight else f for weight in weights], x, times, tableau)
    shares = [(s - t) * weight for t, s in itertools.pairwise(times) for weight in weights if weight]
    column = torch.tensor(shares, dtype=wide(x), device=x.device)[:, None]
    return x, [(column * torch.stack(one)).sum(0) for one in zip(*entries, strict=True)]  # autocast would apply to a matrix product


def _stepped(calls: Sequence[Field], x: Tensor, times: Sequence[float], tableau: Tableau) -> Tensor:
    """Return the state after stepping through `times`, where each stage calls its own function."""
    (first, *later), step, unseen = calls, tableau.step, True
    for h, at in stage_times(x, times, tableau.plan.nodes):
        slope = first(x, at[0])
        if unseen:
            unseen, (same, slope) = False, fitting(first, slope, x)
            if same is not first:  # from now on its output is cast
                first, later = same, [casting(call, x.dtype) for call in later]
        x = step(later, x, h, at, slope)
    return x


def stage_values(times: Sequence[float], nodes: Sequence[float]) -> list[float]:
    """Return the times of all stages of all steps."""
    return [t + c * (s - t) for t, s in itertools.pairwise(times) for c in nodes]


def stage_times(x: Tensor, times: Sequence[float], nodes: Sequence[float]) -> Iterator[tuple[float, tuple[Tensor, ...]]]:
    """Yield for each step its size and the times (n,) of its stages."""
    n, stages = x.shape[0], len(nodes)
    # An exported program serves batches of any size.
    at_once = len(times) if torch.compiler.is_exporting() else max(1, TIMES_AT_ONCE // max(1, n * stages))
    for start in range(0, len(times) - 1, at_once):
        part = times[start : start + at_once + 1]
        values = torch.tensor(stage_values(part, nodes), dtype=wide(x), device=x.device)
        rows = iter(values[:, None].expand(-1, n).contiguous().unbind())  # contiguous: a field may write into its own t
        yield from zip([s - t for t, s in itertools.pairwise(part)], zip(*[rows] * stages, strict=True), strict=True)
