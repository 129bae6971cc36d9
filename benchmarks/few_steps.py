"""The cost of few-step models: a training step next to flow matching's, and a one-step sample next to the bare network."""

from collections.abc import Callable

import torch

import pushforward as pf
from benchmarks.rows import FLOOR, OURS, Row, rows
from benchmarks.timing import Times, race

SHAPE, CLASSES = (1, 8, 8), 10
BATCHES = {"MLP": 256}  # 64 for the others; a batch of 64 of so small a network is the overhead of its calls
NETS = {
    "U-Net": pf.nn.UNet.Config(channels=32, depth=1),
    "DiT": pf.nn.DiT.Config(width=64, depth=3),
    "MLP": pf.nn.MLP.Config(hidden=(512, 512), time_features=32),
}
PRESETS = {
    "meanflow": 2.2,
    "shortcut": 2.2,
    "improved_meanflow": 4.0,
}  # the last has two more passes for guidance, and twice the derivatives


@rows
def few_steps() -> list[Row]:
    training = [_training(preset, name, bar) for preset, bar in PRESETS.items() for name in NETS]
    dropout = pf.nn.UNet.Config(channels=32, depth=1, dropout=0.1)
    return [*training, _training("meanflow", "U-Net with dropout", 2.2, dropout), *(_sampling(name) for name in NETS)]


def _model(preset: str, net: pf.nn.config.NetConfig) -> pf.families.GenerativeModel:
    torch.manual_seed(0)
    model: pf.families.GenerativeModel = getattr(pf.models, preset)(net, SHAPE, classes=CLASSES, drop_cond=0.1)
    for p in model.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.02)
    return model


def _step(preset: str, net: pf.nn.config.NetConfig, batch: int) -> Callable[[], None]:
    """Return a training step: loss, gradients, AdamW."""
    model = _model(preset, net).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    x, labels, generator = torch.randn(batch, *SHAPE), torch.arange(batch) % CLASSES, torch.Generator().manual_seed(0)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        model.loss(x, labels, generator=generator).backward()
        optimiser.step()

    return step


def _training(preset: str, name: str, bar: float, net: pf.nn.config.NetConfig | None = None) -> Row:
    net, batch = NETS[name] if net is None else net, BATCHES.get(name, 64)
    times = race({OURS: _step(preset, net, batch), FLOOR: _step("flow_matching", net, batch)}, turns=20)
    return _row(f"training step of {preset}, {name}, batch of {batch} (the floor is flow_matching's)", times, bar)


def _sampling(name: str) -> Row:
    model, batch = _model("meanflow", NETS[name]).eval(), BATCHES.get(name, 64)
    labels, generator = torch.arange(batch) % CLASSES, torch.Generator().manual_seed(0)
    noise, ones, zeros = torch.randn(batch, *SHAPE), torch.ones(batch), torch.zeros(batch)

    def ours() -> torch.Tensor:
        return model.sample(batch, labels, generator=generator)

    @torch.no_grad()
    def bare() -> torch.Tensor:
        return noise - model.net(noise, ones, labels, r=zeros)  # type: ignore[operator, no-any-return]

    times = race({OURS: ours, FLOOR: bare}, turns=200 if name == "MLP" else 40)  # it takes 2 ms, of which a tenth is to be resolved
    return _row(f"{batch} samples in one step, {name} (the floor is the bare network)", times, 1.15)


def _row(case: str, times: Times, bar: float) -> Row:
    ratio = times.ratio(OURS, [FLOOR])
    values = {one: 1000 * times.best(one) for one in (OURS, FLOOR)}
    return Row(case, "ms", values, ratio, f"at most {bar:g}x the floor (is {1 / ratio[0]:.2f}x)", ratio[0] >= 1 / bar)
