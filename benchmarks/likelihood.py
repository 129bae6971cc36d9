"""Exact likelihood of an MLP velocity by 20 midpoint steps: with the analytic trace, and with the same network behind a plain Module."""

import math
from collections.abc import Callable, Sequence

import torch
import zuko
from flow_matching.solver import ODESolver
from torch import Tensor

import pushforward as pf
from benchmarks import floors
from benchmarks.fields import Plain, at_one_time, velocity
from benchmarks.rows import FLOOR, OURS, Row, rows
from benchmarks.timing import race

STEPS = 20


@rows
def likelihood() -> list[Row]:
    return [row for features, bar in ((16, 15.0), (64, 50.0)) for row in _likelihood(features, bar)]


def _likelihood(features: int, bar: float) -> list[Row]:
    net = velocity(features)
    torch.manual_seed(0)
    x = torch.randn(256, features)
    layers = floors.Layers(net)
    sampler = pf.samplers.Midpoint(STEPS)
    known = pf.families.PathModel(net, (features,))
    other = pf.families.PathModel(Plain(net), (features,))
    # flow_matching has its data at t = 1 and runs back to its noise at t = 0.
    matching = ODESolver(lambda x, t: -at_one_time(net, 1 - t, x))
    free_form = zuko.transforms.FreeFormJacobianTransform(lambda t, x: at_one_time(net, t, x))

    def by_zuko() -> Tensor:
        z, log_abs_det = free_form.call_and_ladj(x)
        return _normal(z) + log_abs_det

    peers: dict[str, Callable[[], Tensor]] = {
        "zuko": by_zuko,
        "flow_matching": lambda: matching.compute_likelihood(x.clone(), _normal, 1 / STEPS, method="midpoint", exact_divergence=True)[1],
    }
    analytic = {
        OURS: lambda: known.log_prob(x, sampler=sampler),
        **peers,
        FLOOR: lambda: floors.likelihood(layers, x, STEPS, layers.value_and_divergence),
    }
    any_other = {
        OURS: lambda: other.log_prob(x, sampler=sampler),
        **peers,
        FLOOR: lambda: floors.likelihood(layers, x, STEPS, layers.value_and_divergence_in_directions),
    }
    # zuko only has an adaptive solver. Its divergence is its own code; the solver is replaced by the same 20 midpoint steps.
    odeint, zuko.transforms.odeint = zuko.transforms.odeint, _midpoint
    try:
        return [
            _row(f"exact likelihood, 20 midpoint steps, batch 256, d={features}: MLP", analytic, bar, turns=12 if features == 16 else 3),
            _row("… any other network", any_other, 1.4, turns=5 if features == 16 else 3),
        ]
    finally:
        zuko.transforms.odeint = odeint


def _row(case: str, contenders: dict[str, Callable[[], Tensor]], bar: float, turns: int) -> Row:
    with torch.no_grad():
        values = {name: contender() for name, contender in contenders.items()}
        for name, value in values.items():
            torch.testing.assert_close(value, values[FLOOR], rtol=1e-4, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
        times = race(contenders, turns)
    ratio = times.ratio(OURS, [name for name in contenders if name not in (OURS, FLOOR)])
    return Row(case, "ms", {name: 1e3 * times.best(name) for name in contenders}, ratio, f"{bar:g}x the fastest peer", ratio[0] >= bar)


def _normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


def _midpoint(f: Callable[..., tuple[Tensor, ...]], state: Sequence[Tensor], t0: float, t1: float, *settings: object) -> tuple[Tensor, ...]:
    """Replace `zuko.utils.odeint` by midpoint steps over its pair (x, ladj)."""
    h, state = (t1 - t0) / STEPS, tuple(state)
    times = torch.arange(2.0 * STEPS).mul_(h / 2).add_(t0).unbind()
    for k in range(STEPS):
        middle = [torch.add(a, b, alpha=h / 2) for a, b in zip(state, f(times[2 * k], *state), strict=True)]
        state = tuple(torch.add(a, b, alpha=h) for a, b in zip(state, f(times[2 * k + 1], *middle), strict=True))
    return state
