"""Solving dx/dt = f(x, t): fixed-step methods, and Dormand-Prince 5(4) in which each sample has its own time, step and error.

Steps, stage times and coefficients are Python floats or rows cut once before the loop: a step makes no tensor that is not the state and
never waits for a number. Every method differentiates through its steps (discretise, then optimise), or by the adjoint ODE (`adjoint`).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pushforward.adjoint import FIXED, Backwards, Tableau, solve_with_adjoint
from pushforward.errors import SolverError, UserError
from pushforward.registry import export, namespace, unknown

namespace(__name__)
Field = Callable[..., Tensor]
Method = Literal["euler", "midpoint", "heun", "rk4", "dopri5"]
TIMES_AT_ONCE = 1 << 20  # stage times are laid out in tables of at most so many numbers


@export("ode.odeint")
def odeint(
    f: Field,
    x: Tensor,
    t0: float,
    t1: float,
    args: tuple[Any, ...] = (),
    method: Method = "dopri5",
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    steps: int | None = None,
    max_steps: int = 10_000,
    adjoint: bool = False,
) -> Tensor:
    """Return the solution at t1 of dx/dt = f(x, t, *args) that starts at x at t0.

    Args:
        f: called as f(x, t, *args) with x (n, *shape) and t (n,); returns dx/dt (n, *shape). Each row must be its own.
        x: state at t0 (n, *shape); it is not written.
        t0: start time.
        t1: end time, before or after t0.
        args: what else f reads for each sample, such as conditions: tensors, or pytrees of them, with leading dimension n. When
            samples that have arrived leave the batch, these are cut together with x; so pass them here, not in a closure.
        method: "dopri5" (adaptive), or "euler", "midpoint", "heun", "rk4" with `steps`.
        rtol: dopri5's tolerance relative to the state.
        atol: dopri5's absolute tolerance, in units of the state. A step is accepted for a sample when the root mean square over its
            event of error / (atol + rtol |x|) is at most 1.
        steps: number of equal steps of a fixed-step method.
        max_steps: most steps that dopri5 may try.
        adjoint: whether gradients come from the adjoint ODE, solved backwards by the same method: memory does not grow with the steps, and
            each step costs two evaluations and a backward pass of f. They are those of the exact solution, to the method's error, for x,
            for the tensors in args and for all parameters that f reads; x is found again on the way back, which loses digits where f
            contracts much. False differentiates through the steps, which is exact and quicker, and holds each step's activations.

    Returns:
        State at t1 (n, *shape).

    Raises:
        UserError: unknown method, or steps missing, not positive or given to dopri5.
        SolverError: dopri5 met a field that is not finite, a step that became too small, or more than max_steps; t and sample are named.

    Example:
        >>> x = odeint(lambda x, t: -x, torch.ones(3, 2), 0.0, 1.0, rtol=1e-6, atol=1e-6)
        >>> torch.allclose(x, torch.full((3, 2), math.exp(-1)), atol=1e-5)
        True

    Source: Hairer, Nørsett and Wanner, Solving ordinary differential equations I, 2nd edition, chapter II; Chen et al., 1806.07366
    (adjoint).
    """
    if method == "dopri5":
        if steps is not None:
            raise UserError(
                f"steps is {steps}, but dopri5 chooses its own; give rtol and atol, or a fixed-step method such as method='rk4'."
            )
        return dopri5(f, x, t0, t1, args, rtol=rtol, atol=atol, max_steps=max_steps, adjoint=adjoint)
    if method not in STEPS:
        raise UserError(unknown("method", str(method), [*STEPS, "dopri5"]))
    if steps is None or steps < 1:
        raise UserError(f"steps is {steps}, but {method} needs at least 1; try steps=20.")
    times = [t0 + (t1 - t0) * k / steps for k in range(steps)] + [t1]
    return fixed_steps(f, x, times, method, args=args, adjoint=adjoint)


def fixed_steps(
    f: Field,
    x: Tensor,
    times: Sequence[float],
    method: str,
    args: tuple[Any, ...] = (),
    adjoint: bool = False,
) -> Tensor:
    """Return the state after stepping f(x, t, *args) through `times` (k + 1 numbers) by a method of `STEPS`."""
    if adjoint:
        back = Backwards(tuple(reversed(times)), FIXED[method])
        return solve_with_adjoint(lambda x, args: fixed_steps(f, x, times, method, args=args), f, x, args, back)
    if args:
        return fixed_steps(lambda x, t: f(x, t, *args), x, times, method)
    nodes, step = STEPS[method]
    for h, at in stage_times(x, times, nodes):
        x = step(f, x, h, at)
    return x


def stage_values(times: Sequence[float], nodes: Sequence[float]) -> list[float]:
    """Return the times of all stages of all steps."""
    return [t + c * (s - t) for t, s in itertools.pairwise(times) for c in nodes]


def call_weights(times: Sequence[float], method: str) -> list[float]:
    """Return the weight in the integral over time that each call of f has in turn; 0 where a stage only shows where to look next."""
    return [(s - t) * weight for t, s in itertools.pairwise(times) for weight in FIXED[method].weights]


def stage_times(x: Tensor, times: Sequence[float], nodes: Sequence[float]) -> Iterator[tuple[float, tuple[Tensor, ...]]]:
    """Yield for each step its size and the times (n,) of its stages."""
    n, stages = x.shape[0], len(nodes)
    at_once = max(1, TIMES_AT_ONCE // max(1, n * stages))
    for start in range(0, len(times) - 1, at_once):
        part = times[start : start + at_once + 1]
        values = torch.tensor(stage_values(part, nodes), dtype=time_dtype(x), device=x.device)
        rows = values[:, None].expand(-1, n).contiguous().unbind()  # contiguous: a field may write into its own t
        for k, (t, s) in enumerate(itertools.pairwise(part)):
            yield s - t, rows[k * stages : (k + 1) * stages]


def time_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of times beside a state: its own, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _euler(f: Field, x: Tensor, h: float, t: tuple[Tensor, ...]) -> Tensor:
    return torch.add(x, f(x, t[0]), alpha=h)


def _midpoint(f: Field, x: Tensor, h: float, t: tuple[Tensor, ...]) -> Tensor:
    middle = torch.add(x, f(x, t[0]), alpha=h / 2)
    return torch.add(x, f(middle, t[1]), alpha=h)


def _heun(f: Field, x: Tensor, h: float, t: tuple[Tensor, ...]) -> Tensor:
    k1 = f(x, t[0])
    k2 = f(torch.add(x, k1, alpha=h), t[1])
    return torch.add(x, k1 + k2, alpha=h / 2)


def _rk4(f: Field, x: Tensor, h: float, t: tuple[Tensor, ...]) -> Tensor:
    k1 = f(x, t[0])
    k2 = f(torch.add(x, k1, alpha=h / 2), t[1])
    k3 = f(torch.add(x, k2, alpha=h / 2), t[1])
    k4 = f(torch.add(x, k3, alpha=h), t[2])
    return torch.add(x, torch.add(k1 + k4, k2 + k3, alpha=2), alpha=h / 6)


STEPS: dict[str, tuple[tuple[float, ...], Callable[..., Tensor]]] = {
    "euler": ((0.0,), _euler),
    "midpoint": ((0.0, 0.5), _midpoint),
    "heun": ((0.0, 1.0), _heun),
    "rk4": ((0.0, 0.5, 1.0), _rk4),
}

# Dormand and Prince 1980: nodes, stages, and the difference of the fifth- and fourth-order weights. The last stage is the step's end,
# so that its slope is the next step's first (FSAL): six evaluations a step.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
# The next step is SAFETY h error^(3/4 BETA - 1/5) previous_error^BETA, as in Hairer's own dopri5: an error that happens to be tiny, as
# that of a single sample can be, then does not make a step that must be taken back. FIRST is the error at which the first step aims, in
# units of the tolerance; Hairer's 0.01 spends one step of a flow's six or seven on finding the next one's size.
BETA, FIRST = 0.06, 1.0


def dopri5(
    f: Field,
    x: Tensor,
    t0: float,
    t1: float,
    args: tuple[Any, ...] = (),
    *,
    rtol: float,
    atol: float,
    max_steps: int = 10_000,
    leave: bool = True,
    log: bool = False,
    adjoint: bool = False,
) -> Tensor:
    """Return the solution at t1 by Dormand-Prince 5(4) with one step size a sample.

    The arguments are those of `odeint`; with `leave=False` samples that have arrived stay in the batch, which f may then know by heart.
    With `log` steps are taken in u = log(t), where dx/du = t f(x, t): for positive times, and fields that vary on the scale of t itself.
    """
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise UserError(f"rtol is {rtol} and atol {atol}, but both must be at least 0 and one positive; try 1e-5.")
    if x.shape[0] == 0 or t0 == t1:
        return x.clone()
    if log:
        f, t0, t1 = _in_log_time(f), math.log(t0), math.log(t1)
    if adjoint:
        back = Backwards((t1, t0), Tableau((0.0, *NODES), STAGES, (*STAGES[-1], 0.0), ERROR), rtol, atol, max_steps, log)
        return solve_with_adjoint(lambda x, args: _Dopri5(f, x, t0, t1, args, rtol, atol, log).run(max_steps, leave), f, x, args, back)
    return _Dopri5(f, x, t0, t1, args, rtol, atol, log).run(max_steps, leave)


def _in_log_time(f: Field) -> Field:
    def by_log(x: Tensor, u: Tensor, *args: Any) -> Tensor:
        t = u.exp()
        return f(x, t, *args) * t.view(-1, *(1,) * (x.ndim - 1)).to(x.dtype)

    return by_log


class _Dopri5:
    """One solve: the state of the samples that are still under way, and where the others have arrived."""

    def __init__(self, f: Field, x: Tensor, t0: float, t1: float, args: tuple[Any, ...], rtol: float, atol: float, log: bool) -> None:
        n, dtype = x.shape[0], time_dtype(x)
        self.f, self.args, self.rtol, self.atol, self.log = f, args, rtol, atol, log
        self.shape, self.sign, self.span = x.shape[1:], math.copysign(1.0, t1 - t0), abs(t1 - t0)
        self.t0, self.t1 = t0, t1
        self.x = x.reshape(n, -1)
        self.elapsed = torch.zeros(n, dtype=dtype, device=x.device)  # |t - t0| of each sample
        self.error = torch.ones(n, dtype=dtype, device=x.device)  # of its last accepted step, in units of the tolerance
        # A step is too small when it is lost in the rounding of t.
        self.smallest = 4 * torch.finfo(dtype).eps * max(abs(t0), abs(t1))
        self.rows = torch.arange(n, device=x.device)
        self.arrived: list[tuple[Tensor, Tensor]] = []
        # What the start weighs in a stage or in the error, then each slope.
        weights = [*((1.0, *row) for row in STAGES), (0.0, *ERROR)]
        self.tables = [torch.tensor(row, dtype=x.dtype, device=x.device) for row in weights]
        self.start = torch.tensor(t0, dtype=dtype, device=x.device)
        self.buffer = x.new_empty(0)  # for the slopes of a step

    def slope(self, x: Tensor, elapsed: Tensor) -> Tensor:
        t = torch.add(self.start, elapsed, alpha=self.sign)
        return self.f(x.view(-1, *self.shape), t, *self.args).reshape(x.shape)

    def run(self, max_steps: int, leave: bool) -> Tensor:
        first = self.slope(self.x, self.elapsed)
        size = self.first_size(first)
        for _ in range(max_steps):
            first, size, under_way = self.step(first, size)
            if under_way == 0:
                return self.finished()
            if leave and under_way <= 0.75 * len(self.rows):  # cutting the batch costs some copies: worth it from a quarter on
                first, size = self.cut(first, size)
        row = int(self.elapsed.argmin())
        raise SolverError(
            f"dopri5 took {max_steps} steps and sample {int(self.rows[row])} is only at t = {self.time(row):.6g}; "
            "loosen rtol and atol, or raise max_steps."
        )

    def step(self, first: Tensor, size: Tensor) -> tuple[Tensor, Tensor, int]:
        """Try one step for every sample; return the first slopes and sizes of the next, and how many are still under way."""
        left = self.span - self.elapsed
        last = size >= left
        h = torch.where(last, left, size)  # 0 for a sample that has arrived
        step = (self.sign * h)[:, None].to(self.x.dtype)
        if not torch.is_grad_enabled() and self.buffer.shape[1:] != first.shape:
            self.buffer = first.new_empty(8, *first.shape)
        moves = _Moves(self.x, step, None if torch.is_grad_enabled() else self.buffer)
        slope = first
        for node, row in zip(NODES, self.tables, strict=False):
            moves.append(slope)
            end = moves.combine(row)
            slope = self.slope(end, torch.add(self.elapsed, h, alpha=node))
        with torch.no_grad():
            moves.append(slope)
            scale = torch.maximum(self.x.abs(), end.abs()).mul_(self.rtol).add_(self.atol)
            ratio = torch.linalg.vector_norm(moves.combine(self.tables[6]).div_(scale), dim=1).div_(end.shape[1] ** 0.5).to(size.dtype)
            accepted = ratio <= 1
            factor = (ratio.clamp_min(1e-10) ** (0.75 * BETA - 0.2)).mul_(self.error**BETA).mul_(SAFETY).clamp_(SHRINK, GROW)
            self.error = torch.where(accepted, ratio.clamp_min(0.1), self.error)
            # After a clipped last step the size proposed before stays valid; after a rejected one the error rules.
            following = torch.where(accepted & last, size, h * factor)
            arrived = accepted & last
            self.elapsed = torch.where(arrived, torch.full_like(left, self.span), torch.where(accepted, self.elapsed + h, self.elapsed))
            # Read back once a step: how many are under way, whether one of them cannot go on, and whether all took the step.
            stuck = ~accepted & ~((h > self.smallest) & ratio.isfinite())
            under_way, failed, all_accepted = torch.stack(((self.elapsed < self.span).sum(), stuck.any(), accepted.all())).tolist()
        if failed:
            raise self.stuck(stuck, ratio)
        if all_accepted:
            self.x = end
            return slope, following, under_way
        keep = accepted[:, None]
        self.x = torch.where(keep, end, self.x)
        return torch.where(keep, slope, first), following, under_way

    def first_size(self, slope: Tensor) -> Tensor:
        """Return the first step of each sample (Hairer et al., section II.4); costs one evaluation."""
        with torch.no_grad():
            scale = self.x.abs().mul_(self.rtol).add_(self.atol)
            size_x, size_slope = _rms(self.x / scale), _rms(slope / scale)
            small = (size_x < 1e-5) | (size_slope < 1e-5)
            guess = torch.where(small, 1e-6, 0.01 * size_x / size_slope).clamp_max(self.span)
            ahead = torch.addcmul(self.x, (self.sign * guess)[:, None].to(self.x.dtype), slope)
            bend = _rms((self.slope(ahead, self.elapsed + guess) - slope) / scale) / guess
            most = torch.maximum(size_slope, bend)
            refined = torch.where(most <= 1e-15, (guess * 1e-3).clamp_min(1e-6), (FIRST / most) ** 0.2)
            return torch.minimum(100 * guess, refined).clamp(max=self.span).to(self.elapsed.dtype)

    def cut(self, first: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Let the samples that have arrived leave the batch."""
        done = self.elapsed >= self.span
        self.arrived.append((self.rows[done], self.x[done]))
        index = (~done).nonzero()[:, 0]
        self.x, self.elapsed, self.error, self.rows = self.x[index], self.elapsed[index], self.error[index], self.rows[index]
        self.args = tree_map_only(Tensor, lambda leaf: leaf[index], self.args)
        return first[index], size[index]

    def finished(self) -> Tensor:
        if not self.arrived:
            return self.x.view(-1, *self.shape)
        rows, parts = zip(*self.arrived, (self.rows, self.x), strict=True)
        return torch.cat(parts)[torch.cat(rows).argsort()].view(-1, *self.shape)

    def time(self, row: int) -> float:
        t = self.t0 + self.sign * float(self.elapsed[row])
        return math.exp(t) if self.log else t

    def stuck(self, which: Tensor, ratio: Tensor) -> SolverError:
        row = int(which.nonzero()[0, 0])
        where = f"at t = {self.time(row):.6g} in sample {int(self.rows[row])}"
        if not math.isfinite(float(ratio[row])):
            return SolverError(f"the field is not finite {where}; check the network's output and that t stays inside the path's interval.")
        return SolverError(f"dopri5's step became too small {where}: the field is too stiff or singular there; loosen rtol and atol.")


class _Moves:
    """A step's start and its slopes times its size, and their weighted sums: in a buffer (8, n, d), or a list for gradients."""

    def __init__(self, x: Tensor, step: Tensor, buffer: Tensor | None) -> None:
        self.step, self.like, self.count, self.buffer = step, x, 1, buffer
        self.parts = [x]
        if buffer is not None:
            buffer[0] = x

    def append(self, slope: Tensor) -> None:
        if self.buffer is None:
            self.parts.append(slope * self.step)
        else:
            torch.mul(slope, self.step, out=self.buffer[self.count])
        self.count += 1

    def combine(self, weights: Tensor) -> Tensor:
        """Return the sum of all so far, weighted: one matrix product over all samples."""
        flat = torch.stack(self.parts).flatten(1) if self.buffer is None else self.buffer[: self.count].flatten(1)
        return (weights @ flat).view_as(self.like)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(1).sqrt()
