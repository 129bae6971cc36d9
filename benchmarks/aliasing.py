"""Cost of `pushforward.debug.detect_aliasing`: a training step under the check, the same step without, and under an empty dispatch mode."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import pushforward as pf
from benchmarks.rows import FLOOR, OURS, Row, rows
from benchmarks.timing import race
from benchmarks.training import demo_model

STEPS = 10  # in one measurement, so that entering the check does not count


class Empty(TorchDispatchMode):
    """Calls each operator and does nothing else: what any check in a dispatch mode costs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@rows
def aliasing() -> list[Row]:
    data = pf.data.load("digits")
    assert data.cond is not None
    x, labels = data.x[:128], data.cond[:128]
    demo, tiny = demo_model(), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    points = torch.randn(8, 8)
    return [
        _row("training step (AdamW) of the demo's model, batch of 128", demo, lambda: demo.loss(x, labels), bar=2.0),
        _row("... of a network of 2 layers of 8, batch of 8", tiny, lambda: tiny(points).square().mean(), bar=10.0),
    ]


def _row(case: str, model: nn.Module, loss: Callable[[], Tensor], bar: float) -> Row:
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)

    def steps(context: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        with context():
            for _ in range(STEPS):
                optimiser.zero_grad()
                loss().backward()
                optimiser.step()

    contexts = {OURS: pf.debug.detect_aliasing, FLOOR: contextlib.nullcontext, "empty mode": Empty}
    times = race({name: functools.partial(steps, context) for name, context in contexts.items()}, turns=3)
    middle, least, most = times.ratio(OURS, [FLOOR])
    values = {name: 1e3 * times.best(name) / STEPS for name in times.runs}
    return Row(case, "ms", values, (middle, least, most), f"at most {bar:g}x the floor (is {1 / middle:.2f}x)", middle >= 1 / bar)
