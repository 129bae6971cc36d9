"""U-Net and DiT on 3x32x32 images: a training step and a sampling step, next to diffusers' networks of the same layout.

The floor does the convolutions, matrix products and attentions of the same shapes and nothing else: no normalisation, no activation, no
residual connection; in training with their gradients, and the same optimiser.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import pushforward as pf
from benchmarks.rows import FLOOR, OURS, Row, rows
from benchmarks.timing import Times, race

SHAPE, BATCH, STEPS = (3, 32, 32), 4, 2
COUNTED = (F.conv2d, F.linear, F.scaled_dot_product_attention)


@rows
def image_networks() -> list[Row]:
    torch.manual_seed(0)
    found = []
    for name, ours, peer, velocity in (_unets(), _dits()):
        sizes = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (ours, peer)]
        title = f"{name}, {sizes[0]:.2f} (diffusers {sizes[1]:.2f}) million parameters, batch of {BATCH}"
        found += [_training(title, ours, peer, velocity), _sampling(title, ours, peer, velocity)]
    return found


def _unets() -> tuple[str, nn.Module, nn.Module, Callable[..., Tensor]]:
    ours = pf.nn.UNet(SHAPE, channels=64, multipliers=(1, 2, 2), depth=2, attention=8, heads=4)
    peer = UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(64, 128, 128), attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    return "U-Net (64, 128, 128), two blocks a level, attention at 8x8", ours, peer, lambda net, x, t: net(x, 1000 * t).sample


def _dits() -> tuple[str, nn.Module, nn.Module, Callable[..., Tensor]]:
    ours = pf.nn.DiT(SHAPE, patch=2, width=256, depth=6, heads=4, classes=1000)
    peer = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=64, in_channels=3, out_channels=3, num_layers=6, sample_size=32, patch_size=2,
        norm_num_groups=1, num_embeds_ada_norm=1000,
    )  # fmt: skip
    labels = torch.arange(BATCH)
    return "DiT of depth 6, width 256, patches of 2", ours, peer, lambda net, x, t: net(x, 1000 * t, labels).sample


def _training(title: str, ours: nn.Module, peer: nn.Module, velocity: Callable[..., Tensor]) -> Row:
    x, target, t = torch.randn(BATCH, *SHAPE), torch.randn(BATCH, *SHAPE), torch.rand(BATCH)
    cond = torch.arange(BATCH) if "DiT" in title else None

    def step(net: nn.Module, predict: Callable[[], Tensor]) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

        def run() -> None:
            optimiser.zero_grad(set_to_none=True)
            F.mse_loss(predict(), target).backward()
            optimiser.step()

        return run

    ours.train(), peer.train()
    floor = _bare(lambda: ours(x, t, cond), gradients=True)
    optimiser = torch.optim.AdamW(ours.parameters(), lr=1e-5, fused=True)

    def bare() -> None:
        floor()
        optimiser.step()

    contenders = {OURS: step(ours, lambda: ours(x, t, cond)), "diffusers": step(peer, lambda: velocity(peer, x, t)), FLOOR: bare}
    return _row(f"training step, {title}", race(contenders, turns=4), 1)


def _sampling(title: str, ours: nn.Module, peer: nn.Module, velocity: Callable[..., Tensor]) -> Row:
    classes = 1000 if "DiT" in title else None
    model = pf.families.PathModel(ours, SHAPE, classes=classes).eval()
    cond = torch.arange(BATCH) if classes else None
    scheduler = FlowMatchEulerDiscreteScheduler()
    peer.eval()

    @torch.no_grad()
    def theirs() -> Tensor:
        scheduler.set_timesteps(STEPS)
        x = torch.randn(BATCH, *SHAPE)
        for t in scheduler.timesteps:
            x = scheduler.step(velocity(peer, x, t.expand(BATCH) / 1000), t, x).prev_sample
        return x

    x, t = torch.randn(BATCH, *SHAPE), torch.rand(BATCH)
    with torch.no_grad():
        floor = _bare(lambda: ours(x, t, cond), gradients=False)

    def bare() -> None:
        for _ in range(STEPS):
            floor()

    contenders = {OURS: lambda: model.sample(BATCH, cond, sampler=pf.samplers.Euler(STEPS)), "diffusers": theirs, FLOOR: bare}
    return _row(f"sampling step, {title}", race(contenders, turns=4), STEPS)


class _Recording(TorchFunctionMode):
    """Records the calls of convolutions, matrix products and attentions with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in COUNTED or function is torch.conv2d:
            self.calls.append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def _bare(evaluate: Callable[[], Tensor], gradients: bool) -> Callable[[], None]:
    """Return a function that repeats the recorded calls of one evaluation, each on its own tensors, and their gradients."""
    with _Recording() as recording:
        evaluate()
    calls = []
    for function, args, options in recording.calls:
        # Parameters stay themselves, so that their gradients are where the optimiser looks.
        own = [one if isinstance(one, nn.Parameter) else _fresh(one, gradients) for one in args]
        calls.append((function, own, options))

    def run() -> None:
        for function, own, options in calls:
            out = function(*own, **options)
            if gradients:
                out.backward(torch.ones_like(out))

    return run


def _fresh(value: Any, gradients: bool) -> Any:
    return value.detach().clone(memory_format=torch.preserve_format).requires_grad_(gradients) if isinstance(value, Tensor) else value


def _row(case: str, times: Times, steps: int) -> Row:
    ratio, over_floor = times.ratio(OURS, ["diffusers"]), times.ratio(OURS, [FLOOR])[0]
    target = f"no slower than diffusers; 1.15x of the floor (is {1 / over_floor:.2f}x)"
    values = {name: 1000 * times.best(name) / steps for name in times.runs}
    return Row(case, "ms", values, ratio, target, ratio[0] >= 0.95 and over_floor >= 1 / (1.05 * 1.15))
