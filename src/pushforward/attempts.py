"""Adaptive steps one at a time, for callers that look at each."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pushforward.adaptive import in_log_time
from pushforward.adaptive_run import Adaptive
from pushforward.fields import Field, in_its_autocast, widened_with
from pushforward.tableaux import Tableau


def adaptive_attempts(
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
    leave: bool,
    log: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the time of each sample (n,) and the state (n, *shape) after each attempted step: the last is that of `adaptive_steps`."""
    own = x.dtype
    f, x, rtol = widened_with(f, x, rtol)
    if log:
        f, t0, t1 = in_log_time(f), math.log(t0), math.log(t1)
    call, plain = in_its_autocast(f, x)
    run = Adaptive(call, x, t0, args, tableau, rtol, atol, log)
    if not run.reach(abs(t1 - t0)) or not x.numel():
        yield run.start.expand(len(x)) + (t1 - t0), x.to(own)
        return
    attempts = run.attempts(t1, max_steps, leave)
    while True:
        with plain:  # not across a yield, where the caller's own code runs
            under_way = next(attempts, None)
        if under_way is None:
            return
        t, x = run.now()
        yield t, x.to(own)
