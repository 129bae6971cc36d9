"""Solving: dopri5 against three libraries at one tolerance, and the overhead of a step in addition to the network."""

from collections.abc import Callable

import torch
import torchdiffeq
import torchode
import zuko
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from flow_matching.solver import ODESolver
from torch import Tensor

import pushforward as pf
from benchmarks import floors
from benchmarks.fields import trained
from benchmarks.rows import FLOOR, OURS, Row, rows
from benchmarks.timing import race

TOLERANCE = 1e-5
STEPS = 1000


@rows
def dopri5() -> list[Row]:
    return [row for features, bar in ((2, 1.0), (64, 1.1)) for row in _dopri5(features, bar)]


def _dopri5(features: int, bar: float) -> list[Row]:
    net = trained(features)
    torch.manual_seed(0)
    x = torch.randn(1024, features)
    ends, layers = torch.tensor([1.0, 0.0]), floors.Layers(net)
    term = torchode.ODETerm(lambda t, x: net(x, t))
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term), torchode.IntegralController(TOLERANCE, TOLERANCE, term=term))
    start, end = torch.ones(len(x)), torch.zeros(len(x))

    contenders: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: pf.ode.odeint(net, x, 1.0, 0.0, rtol=TOLERANCE, atol=TOLERANCE),
        "torchdiffeq": lambda: torchdiffeq.odeint(lambda t, x: net(x, t), x, ends, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)[-1],
        "torchode": lambda: solver.solve(torchode.InitialValueProblem(x, start, end)).ys[:, -1],
        "zuko": lambda: zuko.utils.odeint(lambda t, x: net(x, t), x, 1.0, 0.0, atol=TOLERANCE, rtol=TOLERANCE),
        FLOOR: lambda: floors.dopri5(layers, x, TOLERANCE),
    }
    net.double()
    exact = torchdiffeq.odeint(lambda t, x: net(x, t), x.double(), ends.double(), method="dopri8", rtol=1e-10, atol=1e-10)[-1]
    net.float()
    with torch.no_grad():
        errors = {name: float((contender() - exact).abs().max()) for name, contender in contenders.items()}
        assert max(errors.values()) < 0.01 * float((exact - x).abs().max()), errors  # all of them solve the same equation
        times = race(contenders, turns=8)
    peers = ["torchdiffeq"] if features == 2 else ["torchdiffeq", "torchode", "zuko"]  # the bar at d = 2 is torchdiffeq's time
    ratio = times.ratio(OURS, peers)
    error_ratio = errors["torchdiffeq"] / errors[OURS]
    case = f"dopri5, tolerance 1e-5, batch 1024, d={features}"
    return [
        Row(
            case,
            "ms",
            {name: 1e3 * times.best(name) for name in contenders},
            ratio,
            f"{bar:g}x {'torchdiffeq' if features == 2 else 'the fastest peer'}",
            ratio[0] >= bar * 0.95 if bar == 1 else ratio[0] >= bar,
        ),
        Row(
            f"{case}: largest error",
            "1e-6",
            {name: 1e6 * error for name, error in errors.items()},
            (error_ratio,) * 3,
            "less than torchdiffeq's",
            error_ratio > 1,
        ),
    ]


class _Constant:
    """A field with almost no cost, both as a denoiser and as a prediction."""

    def __init__(self, value: Tensor) -> None:
        self.velocity = self.value = value

    def __call__(self, x: Tensor, t: Tensor, cond: None = None) -> Tensor:
        return self.value


@rows
def overhead() -> list[Row]:
    x, ends = torch.zeros(1, 8), torch.tensor([0.0, 1.0])
    field = _Constant(torch.ones(1, 8))
    denoiser = pf.samplers.Denoiser(field, pf.paths.Linear())
    matching = ODESolver(lambda x, t: field(x, t))

    def torchdiffeq_by(method: str) -> Tensor:
        return torchdiffeq.odeint(lambda t, x: field(x, t), x, ends, method=method, options={"step_size": 1 / STEPS})[-1]

    def diffusers_by(scheduler: FlowMatchEulerDiscreteScheduler | FlowMatchHeunDiscreteScheduler) -> Tensor:
        scheduler.set_timesteps(STEPS)
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(-field(y, t), t, y, return_dict=False)[0]
        return y

    euler_scheduler, heun_scheduler = FlowMatchEulerDiscreteScheduler(), FlowMatchHeunDiscreteScheduler()
    heun = {
        "torchdiffeq": lambda: torchdiffeq_by("heun2"),
        "flow_matching": lambda: matching.sample(x, 1 / STEPS, method="heun2"),
        "diffusers": lambda: diffusers_by(heun_scheduler),
        FLOOR: lambda: floors.heun(field, x, STEPS),
    }
    euler = {
        "torchdiffeq": lambda: torchdiffeq_by("euler"),
        "flow_matching": lambda: matching.sample(x, 1 / STEPS, method="euler"),
        "diffusers": lambda: diffusers_by(euler_scheduler),
        FLOOR: lambda: floors.euler(field, x, STEPS),
    }
    noise = _Constant(torch.ones(1, 8))
    diffusion = pf.samplers.Denoiser(noise, pf.paths.Discrete(steps=STEPS + 1), "noise")

    def scheduled(scheduler: DDIMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler) -> Tensor:
        scheduler.set_timesteps(STEPS)
        y = x
        for t in scheduler.timesteps:
            y = scheduler.step(noise(y, t), t, y, return_dict=False)[0]
        return y

    options = {"num_train_timesteps": STEPS + 1, "timestep_spacing": "leading"}
    schedulers = {
        "DDIM": (pf.samplers.DDIM(STEPS), DDIMScheduler(clip_sample=False, **options), 12),
        "DPM-Solver++ 2M": (pf.samplers.DPMSolverPP(STEPS), DPMSolverMultistepScheduler(**options), 15),
        "UniPC": (pf.samplers.UniPC(STEPS), UniPCMultistepScheduler(**options), 25),
    }

    return [
        _overhead("odeint, Euler", field, x, {OURS: lambda: pf.ode.odeint(field, x, 0.0, 1.0, method="euler", steps=STEPS), **euler}, 1, 5),
        _overhead("samplers.Euler", field, x, {OURS: lambda: pf.samplers.Euler(STEPS)(denoiser, x, 0.0, 1.0), **euler}, 1, 8),
        _overhead("samplers.Heun", field, x, {OURS: lambda: pf.samplers.Heun(STEPS)(denoiser, x, 0.0, 1.0), **heun}, 2, 8),
        *(
            _overhead(
                f"samplers, {name}",
                noise,
                x,
                {
                    OURS: lambda sampler=sampler: sampler(diffusion, x, 1.0, diffusion.path.interval[0]),
                    "diffusers": lambda scheduler=scheduler: scheduled(scheduler),
                },
                1,
                bar,
                same=False,
            )
            for name, (sampler, scheduler, bar) in schedulers.items()
        ),
    ]


def _overhead(
    case: str,
    field: Callable[..., Tensor],
    x: Tensor,
    contenders: dict[str, Callable[[], Tensor]],
    calls: int,
    bar: float,
    same: bool = True,
) -> Row:
    """Return a row; `same` if all results must agree (a scheduler uses other time steps: the laws compare it)."""

    def alone() -> None:
        for _ in range(calls * STEPS):
            field(x, x)

    with torch.no_grad():
        for name, contender in contenders.items():
            if same:
                torch.testing.assert_close(
                    contender(), x + field(x, x), rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
                )
        times = race({**contenders, "field": alone}, turns=10)
    micro = {
        name: [1e6 * (a - b) / (calls * STEPS) for a, b in zip(times.runs[name], times.runs["field"], strict=True)] for name in contenders
    }
    peers = [name for name in contenders if name not in (OURS, FLOOR)]
    ratios = sorted(min(micro[name][k] for name in peers) / mine for k, mine in enumerate(micro[OURS]))
    values = {name: min(numbers) for name, numbers in micro.items()}
    return Row(
        f"{case}: overhead per evaluation",
        "µs",
        values,
        (ratios[len(ratios) // 2], ratios[0], ratios[-1]),
        f"at most {bar:g} µs",
        values[OURS] <= bar,
    )
