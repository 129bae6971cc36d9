"""Discrete vector flows against other libraries and a hand-written floor: RealNVP, spline couplings and MAF.

log_prob, a training step and samples in eager mode; log_prob and a training step with all libraries compiled with torch.compile.
"""

import functools
import math

import FrEIA.framework
import FrEIA.modules
import normflows
import torch
import zuko
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import (
    AffineCouplingTransform,
    CompositeTransform,
    MaskedAffineAutoregressiveTransform,
    PiecewiseRationalQuadraticCouplingTransform,
    ReversePermutation,
)
from nflows.utils.torchutils import create_alternating_binary_mask
from torch import Tensor, nn
from torchflows.bijections.finite.autoregressive.architectures import MAF, CouplingRQNSF, RealNVP
from torchflows.flows import Flow as TorchFlow

import pushforward as pf
from benchmarks.contenders import Contender, compiled_rows, training_step
from benchmarks.flow_floors import MAFFloor, RealNVPFloor, SplineFloor
from benchmarks.rows import FLOOR, OURS, Row, against_peers_and_floor, rows
from benchmarks.timing import race

BATCH, HIDDEN, BINS, BOUND = 1024, 128, 8, 5.0
BARS = {"realnvp": (1.0, 1.0, 1.0), "spline": (2.5, 1.7, 2.5), "maf": (1.0, 1.0, 8.0)}  # log_prob, training step, samples
CASES = (("realnvp", 64, 8), ("spline", 16, 8), ("maf", 16, 5))  # features and layers
FLOORS = {"realnvp": RealNVPFloor, "spline": SplineFloor, "maf": MAFFloor}


@rows
def flows() -> list[Row]:
    found = []
    for kind, features, layers in CASES:
        contenders, x = _contenders(kind, features, layers)
        with torch.no_grad():
            density = race({name: functools.partial(one.log_prob, x) for name, one in contenders.items()}, turns=10)
            drawn = race({name: one.sample for name, one in contenders.items()}, turns=8)
        trained = race({name: training_step(one, x) for name, one in contenders.items()}, turns=8)
        cases = (f"{_title(kind, features, layers)}: log_prob", "… training step (Adam)", "… sample")
        found += [against_peers_and_floor(*one) for one in zip(cases, (density, trained, drawn), BARS[kind], strict=True)]
    return found


@rows
def compiled() -> list[Row]:
    found = []
    for kind, features, layers in CASES:
        contenders, x = _contenders(kind, features, layers)
        found += compiled_rows(_title(kind, features, layers), contenders, x, turns=(10, 5))
    return found


def _title(kind: str, features: int, layers: int) -> str:
    return f"{kind} D={features}, {layers} layers, batch {BATCH}"


def _contenders(kind: str, features: int, layers: int) -> tuple[dict[str, Contender], Tensor]:
    torch.manual_seed(0)
    found = {name: build(kind, features, layers) for name, build in BUILDERS.items() if not (name == "FrEIA" and kind != "realnvp")}
    return found, torch.randn(BATCH, features)


def _ours(kind: str, features: int, layers: int) -> Contender:
    hidden = (HIDDEN, HIDDEN)
    flow = {
        "realnvp": lambda: pf.models.realnvp(features, layers, hidden),
        "spline": lambda: pf.models.nsf(features, layers, BINS, hidden, mixing="none", bound=BOUND),
        "maf": lambda: pf.models.maf(features, layers, hidden),
    }[kind]()
    return Contender(flow.parameters, flow.log_prob, lambda: flow.sample(BATCH))


def _floor(kind: str, features: int, layers: int) -> Contender:
    floor = FLOORS[kind](features, layers, HIDDEN)
    return Contender(floor.parameters, floor.log_prob, lambda: floor.sample(BATCH))


def _zuko(kind: str, features: int, layers: int) -> Contender:
    options = {"transforms": layers, "hidden_features": (HIDDEN, HIDDEN)}
    flow = {
        "realnvp": lambda: zuko.flows.RealNVP(features, **options),
        "spline": lambda: zuko.flows.NSF(features, bins=BINS, passes=2, **options),
        "maf": lambda: zuko.flows.MAF(features, **options),
    }[kind]()
    return Contender(flow.parameters, lambda x: flow().log_prob(x), lambda: flow().sample((BATCH,)))


def _nflows(kind: str, features: int, layers: int) -> Contender:
    steps: list[nn.Module] = []
    for k in range(layers):
        mask = create_alternating_binary_mask(features, even=k % 2 == 0)
        if kind == "maf":
            steps += [
                MaskedAffineAutoregressiveTransform(features, HIDDEN, num_blocks=1, use_residual_blocks=False),
                ReversePermutation(features),
            ]
        elif kind == "realnvp":
            steps += [AffineCouplingTransform(mask, _Mlp)]
        else:
            steps += [PiecewiseRationalQuadraticCouplingTransform(mask, _Mlp, num_bins=BINS, tails="linear", tail_bound=BOUND)]
    flow = Flow(CompositeTransform(steps), StandardNormal([features]))
    return Contender(flow.parameters, flow.log_prob, lambda: flow.sample(BATCH))


class _Mlp(nn.Sequential):
    """Two hidden layers of 128 and relu, called with or without a context, which is unused."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return super().forward(x)


def _normflows(kind: str, features: int, layers: int) -> Contender:
    steps: list[nn.Module] = []
    half = features // 2
    for k in range(layers):
        if kind == "maf":
            layer = normflows.flows.MaskedAffineAutoregressive(features, HIDDEN, num_blocks=1, use_residual_blocks=False)
            # Theirs maps noise to data in one pass, like IAF; inverted it is MAF.
            steps += [normflows.flows.Reverse(layer), normflows.flows.Permute(features, mode="swap")]
        elif kind == "realnvp":
            steps += [normflows.flows.AffineCouplingBlock(_Mlp(half, features)), normflows.flows.Permute(features, mode="swap")]
        else:
            steps += [
                normflows.flows.CoupledRationalQuadraticSpline(
                    features, 1, HIDDEN, num_bins=BINS, tail_bound=BOUND, reverse_mask=k % 2 == 1
                )
            ]
    flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(features, trainable=False), steps)
    return Contender(flow.parameters, flow.log_prob, lambda: flow.sample(BATCH))


def _freia(kind: str, features: int, layers: int) -> Contender:
    flow = FrEIA.framework.SequenceINN(features)
    for _ in range(layers // 2):  # a block has two couplings
        flow.append(FrEIA.modules.GLOWCouplingBlock, subnet_constructor=_Mlp)
    return Contender(flow.parameters, lambda x: _normal(*flow(x)), lambda: flow(torch.randn(BATCH, features), rev=True))


def _torchflows(kind: str, features: int, layers: int) -> Contender:
    conditioner: dict[str, object] = {"n_hidden": HIDDEN, "n_layers": 3}  # two hidden layers
    if kind != "maf":  # whose network has no choice
        conditioner["nonlinearity"] = nn.ReLU
    options = {"n_layers": layers, "conditioner_kwargs": conditioner}
    bijection = {
        "realnvp": lambda: RealNVP((features,), **options),
        "spline": lambda: CouplingRQNSF((features,), **options, transformer_kwargs={"n_bins": BINS, "boundary": BOUND}),
        "maf": lambda: MAF((features,), **options),
    }[kind]()
    flow = TorchFlow(bijection)
    return Contender(flow.parameters, flow.log_prob, lambda: flow.sample((BATCH,)))


def _normal(z: Tensor, log_abs_det: Tensor) -> Tensor:
    return log_abs_det - 0.5 * z.square().sum(1) - z.shape[1] * math.log(2 * math.pi) / 2


BUILDERS = {
    OURS: _ours,
    FLOOR: _floor,
    "zuko": _zuko,
    "nflows": _nflows,
    "normflows": _normflows,
    "FrEIA": _freia,
    "torchflows": _torchflows,
}
