"""Comparison of flows across libraries: density, samples, training steps, eager and compiled."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.rows import Row, against_peers_and_floor
from benchmarks.timing import race


@dataclass(frozen=True)
class Contender:
    """One library's flow, as three functions."""

    parameters: Callable[[], Iterable[nn.Parameter]]
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[], object]


def training_step(one: Contender, x: Tensor) -> Callable[[], None]:
    """Return a function that takes one maximum-likelihood step on x with Adam."""
    optimizer = torch.optim.Adam(one.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        (-one.log_prob(x).mean()).backward()
        optimizer.step()

    return step


def compiled_rows(title: str, contenders: dict[str, Contender], x: Tensor, turns: tuple[int, int]) -> list[Row]:
    """Return the rows of log_prob and of a training step, with the given turns per run, all libraries compiled with torch.compile."""
    contenders = {name: replace(one, log_prob=torch.compile(one.log_prob)) for name, one in contenders.items()}
    with torch.no_grad():
        density = race({name: partial(one.log_prob, x) for name, one in contenders.items()}, turns[0])
    trained = race({name: training_step(one, x) for name, one in contenders.items()}, turns[1])
    torch.compiler.reset()
    return [against_peers_and_floor(f"{title}: log_prob", density, 1.0), against_peers_and_floor("… training step (Adam)", trained, 1.0)]
