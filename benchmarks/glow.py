"""Glow against other libraries and a hand-written floor: log_prob, a training step (also in constant memory), samples, and memory.

Three levels of eight steps on images of 3x32x32, hidden 128, batch 16. All have convolutions 3x3, 1x1 and 3x3 in their couplings. FrEIA
mixes channels by a fixed rotation, as it has no learned 1x1 convolution; none of the peers has a learned prior here.
"""

import math
from collections.abc import Iterable

import FrEIA.framework
import FrEIA.modules
import normflows
import torch
from nflows import transforms
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from torch import Tensor, nn

import pushforward as pf
from benchmarks.contenders import Contender, compiled_rows, training_step
from benchmarks.floors import GlowFloor
from benchmarks.memory import megabytes_held
from benchmarks.rows import FLOOR, OURS, Row, against_peers_and_floor, rows
from benchmarks.timing import Times, race

BATCH, SIDE, LEVELS, DEPTH, HIDDEN = 16, 32, 3, 8, 128
TITLE = f"Glow 3x{SIDE}x{SIDE}, {LEVELS} levels of {DEPTH}, hidden {HIDDEN}, batch {BATCH}"


@rows
def glow() -> list[Row]:
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, SIDE, SIDE)
    contenders = {name: build(x) for name, build in BUILDERS.items()}
    with torch.no_grad():
        density = race({name: lambda one=one: one.log_prob(x) for name, one in contenders.items()}, turns=5)
        drawn = race({name: one.sample for name, one in contenders.items()}, turns=5)
    light = _ours(x, memory="reversible")
    trained = race({name: training_step(one, x) for name, one in {**contenders, "reversible": light}.items()}, turns=3)
    ordinary = Times({name: runs for name, runs in trained.runs.items() if name != "reversible"})
    return [
        against_peers_and_floor(f"{TITLE}: log_prob", density, 1.1),
        against_peers_and_floor("… training step (Adam)", ordinary, 1.05),
        _reversible_row(trained),
        against_peers_and_floor("… sample", drawn, 1.1),
        *_memory_rows(x),
    ]


@rows
def glow_compiled() -> list[Row]:
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, SIDE, SIDE)
    return compiled_rows(TITLE, {name: build(x) for name, build in BUILDERS.items()}, x, turns=(5, 3))


def _reversible_row(times: Times) -> Row:
    """The reversible step against our own ordinary one."""
    ratio = times.ratio("reversible", [OURS])
    values = {OURS: 1000 * times.best("reversible"), "ordinary": 1000 * times.best(OURS)}
    return Row("… training step, reversible", "ms", values, ratio, "1.5x of the ordinary step", 1 / ratio[0] <= 1.5)


def _memory_rows(x: Tensor) -> list[Row]:
    """Megabytes that the graph of a loss holds for its backward pass, at 4 and at 32 steps a level."""
    held = {}
    for memory in ("reversible", "full"):
        for depth in (4, 32):
            model = pf.models.glow(3, SIDE, LEVELS, depth, HIDDEN, preprocess="none", memory=memory)
            held[memory, depth] = megabytes_held(model, x)
    found = []
    for depth in (4, 32):
        light, full = held["reversible", depth], held["full", depth]
        grown = light / held["reversible", 4]
        bar = "1.15x of 4 steps" if depth == 32 else "–"
        case = f"… held for the backward pass, {depth} steps a level"
        found.append(Row(case, "MB", {OURS: light, "ordinary": full}, (full / light,) * 3, bar, grown <= 1.15))
    return found


def _ours(x: Tensor, **options: str) -> Contender:
    flow = pf.models.glow(3, SIDE, LEVELS, DEPTH, HIDDEN, preprocess="none", **options)
    flow.initialise(x)
    return Contender(flow.parameters, flow.log_prob, lambda: flow.sample(BATCH))


def _floor(x: Tensor) -> Contender:
    floor = GlowFloor(3, SIDE, LEVELS, DEPTH, HIDDEN)
    return Contender(floor.parameters, floor.log_prob, lambda: floor.sample(BATCH))


class _Net(nn.Sequential):
    """The network of all couplings, called with or without a context, which is unused."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, HIDDEN, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(HIDDEN, HIDDEN, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(HIDDEN, outputs, 3, padding=1),
        )
        for p in self[-1].parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return super().forward(x)


def _nflows(x: Tensor) -> Contender:
    whole = transforms.MultiscaleCompositeTransform(LEVELS)
    shape: tuple[int, ...] = (3, SIDE, SIDE)
    for _ in range(LEVELS):
        squeeze = transforms.SqueezeTransform()
        channels, height, width = squeeze.get_output_shape(*shape)
        mask = torch.ones(channels)
        mask[channels // 2 :] = -1
        steps: list[nn.Module] = [squeeze]
        for _ in range(DEPTH):
            steps += [
                transforms.ActNorm(channels),
                transforms.OneByOneConvolution(channels, using_cache=True),
                transforms.AffineCouplingTransform(mask, _Net),
            ]
        shape = whole.add_transform(transforms.CompositeTransform(steps), (channels, height, width))
    flow = Flow(whole, StandardNormal([3 * SIDE * SIDE]))
    flow.log_prob(x)  # initialises its ActNorms
    return Contender(flow.parameters, flow.log_prob, lambda: flow.sample(BATCH))


def _normflows(x: Tensor) -> Contender:
    bases, levels, merges = [], [], []
    for k in range(LEVELS):
        channels = 3 * 2 ** (LEVELS + 1 - k)
        steps: list[nn.Module] = [normflows.flows.GlowBlock(channels, HIDDEN, scale_map="exp") for _ in range(DEPTH)]
        levels += [[*steps, normflows.flows.Squeeze()]]
        side = SIDE // 2 ** (LEVELS - k)
        shape = (channels if k == 0 else channels // 2, side, side)
        bases += [normflows.distributions.DiagGaussian(shape, trainable=False)]
        merges += [normflows.flows.Merge()] if k else []
    flow = normflows.MultiscaleFlow(bases, levels, merges, class_cond=False)
    flow.log_prob(x, None)
    return Contender(flow.parameters, lambda x: flow.log_prob(x, None), lambda: flow.sample(BATCH))


def _freia(x: Tensor) -> Contender:
    nodes = [FrEIA.framework.InputNode(3, SIDE, SIDE)]
    ends = []

    def add(kind: type, **options: object) -> None:
        nodes.append(FrEIA.framework.Node(nodes[-1], kind, options))

    for level in range(LEVELS):
        add(FrEIA.modules.IRevNetDownsampling)
        for _ in range(DEPTH):
            add(FrEIA.modules.AllInOneBlock, subnet_constructor=_Net, permute_soft=True)
        if level < LEVELS - 1:
            nodes.append(FrEIA.framework.Node(nodes[-1], FrEIA.modules.Split, {"dim": 0}))
            split = nodes[-1]
            ends.append(FrEIA.framework.OutputNode(split.out1))
            nodes.append(FrEIA.framework.Node(split.out0, FrEIA.modules.Reshape, {"output_dims": split.output_dims[0]}))
    ends.append(FrEIA.framework.OutputNode(nodes[-1]))
    flow = FrEIA.framework.GraphINN([*nodes, *ends])
    with torch.no_grad():
        shapes = [z.shape[1:] for z in flow(x)[0]]
    noise = [torch.randn(BATCH, *shape) for shape in shapes]
    return Contender(flow.parameters, lambda x: _normal(*flow(x)), lambda: flow([torch.randn_like(one) for one in noise], rev=True))


def _normal(parts: Iterable[Tensor], log_abs_det: Tensor) -> Tensor:
    return log_abs_det + sum(-0.5 * z.square().flatten(1).sum(1) - z[0].numel() * math.log(2 * math.pi) / 2 for z in parts)


BUILDERS = {OURS: _ours, FLOOR: _floor, "nflows": _nflows, "normflows": _normflows, "FrEIA": _freia}
