"""One adaptive solve, step by step: each sample has its own time, step size and error."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pushforward._precision import wide
from pushforward.errors import SolverError
from pushforward.fields import Field, fitting
from pushforward.tableaux import Tableau

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
# The next step is SAFETY h error^(3/4 beta - 1/q) previous_error^beta, where q is the order of a step's error and beta BETA / q: for dopri5
# 0.06, close to Hairer's value. An accidentally tiny error, as can happen for a single sample, then does not lead to a step that must be
# rejected. FIRST is the target error of the first step, in units of the tolerance; with Hairer's 0.01, one of the six or seven steps of
# a flow would only serve to find the size of the next.
BETA, FIRST = 0.3, 1.0


class Adaptive:
    """One solve: the state of the active samples, and the results of the finished ones."""

    columns: tuple[str, ...] = ("rows", "x", "elapsed", "error", "size", "first")  # attributes with one row per sample

    def __init__(
        self, f: Field, x: Tensor, t0: float, args: tuple[Any, ...], tableau: Tableau, rtol: float, atol: float, log: bool = False
    ) -> None:
        n, dtype = x.shape[0], wide(x)
        self.f, self.args, self.all_args, self.rtol, self.atol, self.log = f, args, args, rtol, atol, log
        self.shape, self.sign, self.t0, self.span = x.shape[1:], 1.0, t0, 0.0
        self.x = x.reshape(n, math.prod(self.shape))
        self.elapsed = torch.zeros(n, dtype=dtype, device=x.device)  # |t - t0| of each sample
        self.error = torch.ones(n, dtype=dtype, device=x.device)  # of its last accepted step, in units of the tolerance
        self.size: Any = None  # of its next step
        self.first: Tensor | None = None  # slope at x, if known
        self.rows = torch.arange(n, device=x.device)
        self.away: list[dict[str, Tensor]] = []
        self.tableau, self.power = tableau, 1 / (1 + min(tableau.order, tableau.error_order))
        # Weights of the initial state and of each slope, for a stage, the end state or the error.
        table = [*((1.0, *row) for row in tableau.stages), (1.0, *tableau.weights), (0.0, *tableau.error)]
        *self.tables, self.end, self.wrong = (torch.tensor(row, dtype=x.dtype, device=x.device) for row in table)
        self.start = torch.tensor(t0, dtype=dtype, device=x.device)
        self.buffer = x.new_empty(0)  # for the slopes of a step

    def slope(self, x: Tensor, elapsed: Tensor) -> Tensor:
        t = torch.add(self.start, elapsed, alpha=self.sign)
        return self.f(x.view(-1, *self.shape), t, *self.args).reshape(x.shape)

    def to(self, end: float, max_steps: int, leave: bool, more: bool = False) -> Tensor:
        """Return the state at a time; with `more`, keep what a further call needs."""
        if not self.reach(abs(end - self.t0)):
            return self.x.view(-1, *self.shape).clone()
        for _ in self.attempts(end, max_steps, leave, more):
            pass
        return self.finished(more)

    def attempts(self, end: float, max_steps: int, leave: bool, more: bool = False) -> Iterator[int]:
        """Try steps to a time that was passed to `reach`; yield the number of active samples after each."""
        if self.size is None:
            self.begin(math.copysign(1.0, end - self.t0))
        # A step is too small if rounding of t loses it.
        self.smallest = 4 * torch.finfo(self.elapsed.dtype).eps * max(abs(self.t0), abs(end))
        for _ in range(max_steps):
            under_way = self.step()
            yield under_way
            if under_way == 0:
                return
            if leave and under_way <= 0.75 * len(self.rows):  # shrinking the batch costs copies: worth it from a quarter on
                self.cut(more)
        row = int(self.elapsed.argmin())
        raise SolverError(
            f"{self.tableau.name} took {max_steps} steps and sample {int(self.rows[row])} is only at t = {self.time(row):.6g}; "
            "loosen rtol and atol, or raise max_steps."
        )

    def reach(self, span: float) -> bool:
        """Extend the solve of all samples to this time after t0; return whether any is not there already."""
        before, self.span = self.span, span
        return span != before

    def begin(self, sign: float) -> None:
        """Compute the first slopes and step sizes."""
        self.sign = sign
        x, t = self.x.view(-1, *self.shape), self.start.expand(len(self.x)).clone()
        self.f, first = fitting(self.f, self.f(x, t, *self.args), x)
        self.first = first.reshape(self.x.shape)
        self.size = self.first_size(self.first)

    def step(self) -> int:
        """Try one step for every sample; return the number of active samples."""
        size = self.size
        left = self.span - self.elapsed
        last = size >= left
        h = torch.where(last, left, size)  # 0 for a finished sample
        first = self.slope(self.x, self.elapsed) if self.first is None else self.first
        step = (self.sign * h)[:, None].to(self.x.dtype)
        moves = _Moves(self.x, step, self.room(first))
        slope = first
        for node, row in zip(self.tableau.nodes[1:], self.tables, strict=True):
            moves.append(slope)
            end = moves.combine(row)
            slope = self.slope(end, torch.add(self.elapsed, h, alpha=node))
        if not self.tableau.fsal:
            moves.append(slope)
            end = moves.combine(self.end)
        with torch.no_grad():
            if self.tableau.fsal:
                moves.append(slope)
            scale = torch.maximum(self.x.abs(), end.abs()).mul_(self.rtol).add_(self.atol)
            ratio = torch.linalg.vector_norm(moves.combine(self.wrong).div_(scale), dim=1).div_(end.shape[1] ** 0.5).to(size.dtype)
            accepted = ratio <= 1
            beta = BETA * self.power
            factor = (ratio.clamp_min(1e-10) ** (0.75 * beta - self.power)).mul_(self.error**beta).mul_(SAFETY).clamp_(SHRINK, GROW)
            self.error = torch.where(accepted, ratio.clamp_min(0.1), self.error)
            # After a shortened last step the size proposed before stays valid; after a rejected one the error determines it.
            self.size = torch.where(accepted & last, size, h * factor)
            arrived = accepted & last
            end, h, arrived = self.landed(first, end, h, accepted, arrived)
            self.elapsed = torch.where(arrived, self.span, torch.where(accepted, self.elapsed + h, self.elapsed))
            # Read back once a step: the number of active samples, whether one of them cannot continue, and whether all took the step.
            stuck = ~accepted & ~((h > self.smallest) & ratio.isfinite())
            under_way, failed, all_accepted = torch.stack(((self.elapsed < self.span).sum(), stuck.any(), accepted.all())).tolist()
        if failed:
            raise self.stuck(stuck, ratio)
        keep = accepted[:, None]
        self.x = end if all_accepted else torch.where(keep, end, self.x)
        # Without the slope at a step's end the next step computes its own first one, unless no sample moved.
        self.first = (slope if all_accepted else torch.where(keep, slope, first)) if self.tableau.fsal else None
        return under_way

    def landed(self, first: Tensor, end: Tensor, h: Tensor, accepted: Tensor, arrived: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the samples' state after a step, its length and which are finished; subclasses locate events here."""
        return end, h, arrived

    def room(self, first: Tensor) -> Tensor | None:
        """Return the buffer for a step's start and slopes, or None if they are needed for gradients."""
        if torch.is_grad_enabled():
            return None
        if self.buffer.shape[1:] != first.shape:
            self.buffer = first.new_empty(1 + len(self.tableau.nodes), *first.shape)
        return self.buffer

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
            refined = torch.where(most <= 1e-15, (guess * 1e-3).clamp_min(1e-6), (FIRST / most) ** self.power)
            return torch.minimum(100 * guess, refined).clamp(max=self.span).to(self.elapsed.dtype)

    def cut(self, more: bool) -> None:
        """Remove finished samples from the batch."""
        done = self.elapsed >= self.span
        held = {name: value for name in self.columns if (value := getattr(self, name)) is not None}
        self.away.append({name: value[done] for name, value in held.items() if more or name in ("rows", "x")})
        index = (~done).nonzero()[:, 0]
        for name, value in held.items():
            setattr(self, name, value[index])
        self.args = tree_map_only(Tensor, lambda leaf: leaf[index], self.args)

    def finished(self, more: bool) -> Tensor:
        """Return the states of all samples in their order; with `more`, restore the full batch."""
        if self.away:
            parts = [*self.away, {name: getattr(self, name) for name in self.away[0]}]
            order = torch.cat([part["rows"] for part in parts]).argsort()
            for name in parts[0]:
                setattr(self, name, torch.cat([part[name] for part in parts])[order])
            self.away, self.args = [], self.all_args
        return self.x.view(-1, *self.shape)

    def now(self) -> tuple[Tensor, Tensor]:
        """Return the time of each sample (n,) and the states of all samples in their order."""
        done = [part["rows"] for part in self.away]
        elapsed = torch.cat([*(self.elapsed.new_full(rows.shape, self.span) for rows in done), self.elapsed])
        order = torch.cat([*done, self.rows]).argsort()
        t = torch.add(self.start, elapsed[order], alpha=self.sign)
        states = torch.cat([*(part["x"] for part in self.away), self.x])[order]
        return t.exp() if self.log else t, states.view(-1, *self.shape)

    def time(self, row: int) -> float:
        t = self.t0 + self.sign * float(self.elapsed[row])
        return math.exp(t) if self.log else t

    def stuck(self, which: Tensor, ratio: Tensor) -> SolverError:
        row = int(which.nonzero()[0, 0])
        where = f"at t = {self.time(row):.6g} in sample {int(self.rows[row])}"
        if not math.isfinite(float(ratio[row])):
            if not torch.isfinite(self.x[row]).all():
                return SolverError(f"x is not finite {where}; replace or leave out what is NaN or infinite in it.")
            return SolverError(f"the field is not finite {where}; check the network's output and that t stays inside the path's interval.")
        name = self.tableau.name
        return SolverError(f"{name}'s step became too small {where}: the field is too stiff or singular there; loosen rtol and atol.")


class _Moves:
    """A step's initial state and its slopes times its size, with weighted sums: in a buffer (s + 1, n, d), or a list for gradients."""

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
        """Return the weighted sum of all entries so far: one matrix product over all samples."""
        flat = torch.stack(self.parts).flatten(1) if self.buffer is None else self.buffer[: self.count].flatten(1)
        return (weights @ flat).view_as(self.like)


def _rms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1) / x.shape[1] ** 0.5
