"""Steps that adapt, by any Runge-Kutta method with an error estimate: each sample has its own time, step and error."""

import functools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pushforward.adaptive_run import Adaptive
from pushforward.adjoint import Backwards, solve_with_adjoint
from pushforward.errors import UserError
from pushforward.fields import Field, in_its_autocast, widened_with
from pushforward.methods import DOPRI5
from pushforward.tableaux import Tableau


def adaptive_steps(
    f: Field, x: Tensor, t0: float, t1: float, args: tuple[Any, ...] = (), tableau: Tableau = DOPRI5, **options: Any
) -> Tensor:
    """Return the solution at t1 with a step size for each sample (see `adaptive_states`)."""
    return adaptive_states(f, x, t0, [t1], args, tableau, **options)[0]


def adaptive_states(
    f: Field,
    x: Tensor,
    t0: float,
    ends: Sequence[float],
    args: tuple[Any, ...] = (),
    tableau: Tableau = DOPRI5,
    *,
    rtol: float,
    atol: float,
    max_steps: int = 10_000,
    leave: bool = True,
    log: bool = False,
    adjoint: bool = False,
) -> list[Tensor]:
    """Return the solution at each of `ends`; the last step before each is shortened to end there.

    The arguments are those of `odeint`; with `leave=False` finished samples stay in the batch, for an f that captures per-sample data.
    With `log`, steps are taken in u = log(t), with dx/du = t f(x, t): for positive times, and fields that vary on the scale of t itself.
    """
    check_tolerances(rtol, atol)
    own = x.dtype
    f, x, rtol = widened_with(f, x, rtol)
    if log:
        f, t0, ends = in_log_time(f), math.log(t0), [math.log(end) for end in ends]

    def solve(x: Tensor, t0: float, ends: Sequence[float], args: tuple[Any, ...]) -> list[Tensor]:
        if x.numel() == 0:
            return [x.clone() for _ in ends]
        call, plain = in_its_autocast(f, x)
        with plain:
            run = Adaptive(call, x, t0, args, tableau, rtol, atol, log)
            return [run.to(end, max_steps, leave, more=k < len(ends)) for k, end in enumerate(ends, 1)]

    def leg(t0: float, end: float, x: Tensor, args: tuple[Any, ...]) -> Tensor:
        return solve(x, t0, [end], args)[0]

    if not adjoint:
        return [state.to(own) for state in solve(x, t0, ends, args)]
    states = []
    for end in ends:
        back = Backwards((end, t0), tableau, True, rtol, atol, max_steps, log)
        x = solve_with_adjoint(functools.partial(leg, t0, end), f, x, args, back)
        states.append(x.to(own))
        t0 = end
    return states


def check_tolerances(rtol: float, atol: float) -> None:
    """Raise an error for tolerances that no step can meet.

    Raises:
        UserError: one is negative, or both are 0.
    """
    if not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise UserError(f"rtol is {rtol} and atol {atol}, but both must be at least 0 and one positive; try 1e-5.")


def in_log_time(f: Field) -> Field:
    """Return the field by u = log(t)."""

    def by_log(x: Tensor, u: Tensor, *args: Any) -> Tensor:
        t = u.exp()
        return f(x, t, *args) * t.view(-1, *(1,) * (x.ndim - 1)).to(x.dtype)

    return by_log
