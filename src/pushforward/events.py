"""Events: a sample stops where a function of its state changes sign.

A first solve, without gradients, finds each sample's time T: the step in which the sign changes is repeated at shorter lengths until T is
known up to rounding. A second solve goes to T with gradients, by any method. The derivatives of T and x(T) are

    g(x(T), T) = 0,    dT = - dg / (d/dt g(x(t), t)),    dx = dx(T) + f dT,

by the implicit function theorem; applied to the values this is a Newton step. Source: Chen, Amos and Nickel, 2011.03902, section 3.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pushforward._precision import wide
from pushforward.adaptive import check_tolerances
from pushforward.adaptive_run import Adaptive
from pushforward.errors import ShapeError, UserError
from pushforward.fields import WIDE, Field, fitting, in_its_autocast, widened, widened_with
from pushforward.registry import export
from pushforward.tableaux import Sum, Tableau

Event = Callable[..., Tensor]
TRIES = 80  # a third of them bisect the bracket


@export("ode.Stopped")
class Stopped(NamedTuple):
    """State (n, *shape) and time (n,) of samples at an event, and whether it happened (n,); otherwise the sample is at the end time."""

    x: Tensor
    t: Tensor
    happened: Tensor


def differentiable(
    event: Event, found: Stopped, f: Field, x: Tensor, t0: float, args: tuple[Any, ...], solve: Callable[..., Tensor]
) -> Stopped:
    """Return the same states and times with gradients, if any are needed.

    Args:
        event: the function that changes sign.
        found: states and times, without gradients.
        f: the field.
        x: initial state at t0.
        t0: start time.
        args: per-sample arguments of field and event.
        solve: called as solve(f, x, t0, t1, args), returns the solution at t1.
    """
    if not torch.is_grad_enabled() or x.numel() == 0:
        return found

    def scaled(x: Tensor, s: Tensor, lasts: Tensor, *args: Any) -> Tensor:
        return f(x, t0 + s * lasts, *args) * _column(lasts, x)

    end = solve(scaled, x, 0.0, 1.0, (found.t - t0, *args))
    slope = f(end, found.t, *args).detach().to(end.dtype)
    with torch.enable_grad():
        at, when = end.detach().requires_grad_(), found.t.clone().requires_grad_()
        value = event(at, when, *args)
        if not value.requires_grad:
            raise UserError(
                "the event's value has no gradient, so its time has none; make it differentiable, or solve under torch.no_grad()."
            )
        by_x, by_t = torch.autograd.grad(value.sum(), (at, when), allow_unused=True, materialize_grads=True)
    along = (by_x.conj() * slope).reshape(len(x), -1).sum(1)
    rate = (along.real if along.is_complex() else along) + by_t
    moves = found.happened & (rate != 0)
    later = torch.where(moves, -event(end, found.t, *args) / torch.where(moves, rate, 1.0), 0.0).to(found.t.dtype)
    return Stopped(end + _column(later, end) * slope, found.t + later, found.happened)


@torch.no_grad()
def fixed_until(event: Event, f: Field, x: Tensor, times: Sequence[float], tableau: Tableau, args: tuple[Any, ...]) -> Stopped:
    """Return where samples stop in fixed steps through `times`, without gradients."""
    own = x.dtype
    if own not in WIDE:
        f, x = widened(f, x)
    f, plain = in_its_autocast(f, x)
    with plain:
        now, last = (torch.full((len(x),), t, dtype=wide(x), device=x.device) for t in (times[0], times[-1]))
        happened = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        before = _value(event, x, now, args)
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            first = f(x, now, *args)
            if k == 0:
                f, first = fitting(f, first, x)
            after, lasts = torch.full_like(now, s), torch.full_like(now, s - t)
            end = _step(f, x, now, lasts, tableau, args, first)
            value = _value(event, end, after, args)
            crossed = ~happened & _crossed(before, value)
            if crossed.any():
                rows = crossed.nonzero()[:, 0]
                some = tree_map_only(Tensor, functools.partial(_rows, rows), (x, now, lasts, args, first, before, value))
                share, at = _located(event, f, tableau, *some)
                end, last = end.index_copy(0, rows, at), last.index_copy(0, rows, some[1] + share * some[2])
            x = torch.where(happened.view(-1, *(1,) * (x.ndim - 1)), x, end)
            happened, now, before = happened | crossed, after, torch.where(value == 0, before, value)
            if happened.all():
                break
    return Stopped(x.to(own), last, happened)


@torch.no_grad()
def adaptive_until(
    event: Event,
    f: Field,
    x: Tensor,
    t0: float,
    t1: float,
    args: tuple[Any, ...],
    tableau: Tableau,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
) -> Stopped:
    """Return where samples stop in adaptive steps, without gradients."""
    check_tolerances(rtol, atol)
    own = x.dtype
    f, x, rtol = widened_with(f, x, rtol)
    f, plain = in_its_autocast(f, x)
    with plain:
        run = _Watched(event, f, x, t0, args, tableau, rtol, atol)
        if x.numel():
            x = run.to(t1, max_steps, leave=True, more=True)
    return Stopped(x.to(own), torch.add(run.start, run.elapsed, alpha=run.sign), run.happened)


class _Watched(Adaptive):
    """An adaptive solve in which samples also finish at the event."""

    columns = (*Adaptive.columns, "span", "before", "happened")

    def __init__(self, event: Event, f: Field, x: Tensor, t0: float, args: tuple[Any, ...], *options: Any) -> None:
        super().__init__(f, x, t0, args, *options)
        self.event, self.happened = event, torch.zeros_like(self.rows, dtype=torch.bool)
        self.before = _value(event, x, self.start.expand(len(x)), args)

    def reach(self, span: float) -> bool:
        self.span: Any = torch.full_like(self.elapsed, span)
        return span > 0

    def landed(self, first: Tensor, end: Tensor, h: Tensor, accepted: Tensor, arrived: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, slope, there = (one.view(-1, *self.shape) for one in (self.x, first, end))
        t, lasts = torch.add(self.start, self.elapsed, alpha=self.sign), self.sign * h
        value = _value(self.event, there, t + lasts, self.args)
        crossed = accepted & ~self.happened & _crossed(self.before, value)
        if crossed.any():
            rows = crossed.nonzero()[:, 0]
            some = tree_map_only(Tensor, functools.partial(_rows, rows), (x, t, lasts, self.args, slope, self.before, value))
            share, at = _located(self.event, self.f, self.tableau, *some)
            end, h = end.index_copy(0, rows, at.reshape(len(rows), -1)), h.index_copy(0, rows, share * h[rows])
            self.span = torch.where(crossed, self.elapsed + h, self.span)
        self.before, self.happened = torch.where(accepted & (value != 0), value, self.before), self.happened | crossed
        return end, h, arrived | crossed


def _located(
    event: Event, f: Field, tableau: Tableau, x: Tensor, t: Tensor, lasts: Tensor, args: Any, first: Tensor, before: Tensor, after: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the fraction of a step (m,) at which the event is 0, and the state: by false position (Illinois) and bisection in turn."""
    low, high = torch.zeros_like(t), torch.ones_like(t)
    low_value, high_value, side = before.to(t.dtype), after.to(t.dtype), torch.zeros_like(t)
    for k in range(TRIES):
        share = (low + high) / 2 if k % 3 == 2 else (low * high_value - high * low_value) / (high_value - low_value)
        share = torch.where(high > low, share.clamp(low, high), high)
        at = _step(f, x, t, share * lasts, tableau, args, first)
        value = _value(event, at, t + share * lasts, args).to(t.dtype)
        early, late = value * low_value > 0, value * high_value > 0
        low, high = torch.where(late, low, share), torch.where(early, high, share)  # both if the value is 0
        # The value of an end that stays twice is halved, so that the bracket shrinks from both sides.
        low_value, high_value = (
            torch.where(early, value, torch.where(side > 0, low_value / 2, low_value)),
            torch.where(late, value, torch.where(side < 0, high_value / 2, high_value)),
        )
        side = late.to(t.dtype) - early.to(t.dtype)
        if not (high - low > 2 * torch.finfo(t.dtype).eps).any():
            break
    return share, at


def _step(f: Field, x: Tensor, t: Tensor, h: Tensor, tableau: Tableau, args: Any, first: Tensor) -> Tensor:
    """Return the state after a step of length h (n,) with a known first slope."""
    nodes, rows, weights = tableau.plan
    column, slopes = _column(h, x), [first]

    def moved(row: Sum) -> Tensor:
        return x + column * sum(weight * sum(slopes[k] for k in same) for weight, same in row)

    for node, row in zip(nodes[1:], rows, strict=True):
        slopes.append(f(moved(row), t + node * h, *args))
    return moved(weights)


def _value(event: Event, x: Tensor, t: Tensor, args: tuple[Any, ...]) -> Tensor:
    value = event(x, t, *args)
    if value.shape != t.shape:
        raise ShapeError(
            f"the event returns shape {tuple(value.shape)} for {len(t)} samples, but it is one number each; return ({len(t)},)."
        )
    return value


def _crossed(before: Tensor, after: Tensor) -> Tensor:
    """Return where a value changed sign; a previous value of 0 has no sign."""
    return (before.sign() * after.sign() < 0) | ((after == 0) & (before != 0))


def _column(value: Tensor, x: Tensor) -> Tensor:
    return value.view(-1, *(1,) * (x.ndim - 1)).to(x.dtype)


def _rows(index: Tensor, leaf: Tensor) -> Tensor:
    return leaf[index]
