"""Stable Diffusion 3 in training and from prompt to image, next to diffusers' modules.

A training step is loss, gradients and AdamW of the same network with the same weights, diffusers' in a plain loop. Activation
checkpointing is measured against the same step without it. From prompt to image both pipelines run three text encoders, 28 steps with
guidance and the autoencoder, on random checkpoints (`tests/tiny_sd3.py`); each call has a prompt of its own, as encodings are cached here.
"""

import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pushforward as pf
from benchmarks.memory import megabytes_held
from benchmarks.mmdit import CONTEXT, DEPTH, POOLED, TEXT, WIDTH, networks
from benchmarks.rows import OURS, Row, rows
from benchmarks.timing import Times, race
from pushforward.sd3.latent_model import LatentModel

BATCH, DEEP, STEPS, STORED = 2, 24, 28, "stored"


@rows
def sd3_training() -> list[Row]:
    torch.manual_seed(0)
    found = [_step(tokens, turns, bar) for tokens, turns, bar in ((256, 3, 1.0), (1024, 2, 1.1))]
    return [*found, *_recomputed()]


@rows
def sd3_pipeline() -> list[Row]:
    torch.manual_seed(0)
    return [_pipeline("tiny", {}, 128, 2), _pipeline("middle", {"depth": 6, "heads": 6, "qk_norm": True, "positions": 32}, 256, 1)]


def _step(tokens: int, turns: int, bar: float) -> Row:
    ours, peer = networks(qk_norm=True)
    side = 2 * round(tokens**0.5)
    x, cond = torch.randn(BATCH, 16, side, side), pf.TextContext(torch.randn(BATCH, TEXT, CONTEXT), torch.randn(BATCH, POOLED))
    model = LatentModel(ours, (16, side, side), pf.samplers.Euler(STEPS)).train()

    def theirs() -> Tensor:
        noise, t = torch.randn_like(x), torch.sigmoid(torch.randn(BATCH))
        mixed = torch.lerp(x, noise, t[:, None, None, None])
        return F.mse_loss(peer(mixed, cond.context, cond.pooled, 1000 * t).sample, noise - x)

    contenders = {OURS: _trained(ours, lambda: model.loss(x, cond)), "diffusers": _trained(peer.train(), theirs)}
    times = race(contenders, turns)
    case = f"training step, depth {DEPTH}, width {WIDTH}, {TEXT} text and {tokens} image tokens, batch of {BATCH}"
    return _row(case, times, bar, f"{bar:g}x diffusers" if bar > 1 else "no slower than diffusers")


def _trained(net: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return run


def _recomputed() -> list[Row]:
    """Return what activation checkpointing saves and costs at depth 24."""
    net = pf.nn.MMDiT((16, 32, 32), depth=DEEP, heads=2, context_width=128, pooled_width=64, positions=16, null_tokens=77)
    model: Any = LatentModel(net, (16, 32, 32), pf.samplers.Euler(STEPS)).train()
    x = torch.randn(BATCH, 16, 32, 32)  # without text: 77 tokens of zeros

    def having(recompute: bool, do: Callable[[], Any]) -> Any:
        net.activation_checkpointing = recompute
        return do()

    held = {flag: having(flag, lambda: megabytes_held(model, x)) for flag in (True, False)}
    step = _trained(net, lambda: model.loss(x))
    times = race({OURS: lambda: having(True, step), STORED: lambda: having(False, step)}, 3)
    saved, cost = held[False] / held[True], times.ratio(OURS, [STORED])
    title = f"activation checkpointing, depth {DEEP}, width 128, 77 text and 256 image tokens, batch of {BATCH}"
    return [
        Row(f"{title}: activations", "MB", {OURS: held[True], STORED: held[False]}, (saved, saved, saved), "4x less", saved >= 4),
        Row(
            f"{title}: training step", "ms", {name: 1000 * times.best(name) for name in times.runs}, cost,
            f"at most 1.4x of the time (is {1 / cost[0]:.2f}x)", 1 / cost[0] <= 1.4,
        ),
    ]  # fmt: skip


def _pipeline(name: str, sizes: dict[str, Any], side: int, turns: int) -> Row:
    from diffusers import StableDiffusion3Pipeline

    tiny = _tiny_sd3()
    tiny.VARIANTS[name] = tiny.Sizes(**{"vae_blocks": 2, **sizes})
    with tempfile.TemporaryDirectory() as folder:
        made = tiny.build(Path(folder), name)
        ours, peer = pf.StableDiffusion3.from_pretrained(made.folder), StableDiffusion3Pipeline.from_pretrained(made.folder)
        peer.set_progress_bar_config(disable=True)
        numbers = itertools.count()
        contenders: dict[str, Callable[[], object]] = {
            OURS: lambda: ours.sample(f"a red fox {next(numbers)}", size=(side, side), steps=STEPS, generator=0),
            "diffusers": lambda: peer(f"a red fox {next(numbers)}", height=side, width=side, num_inference_steps=STEPS),
        }
        times = race(contenders, turns)
    return _row(f"from prompt to image, {name} sizes, {side} pixels, {STEPS} steps", times, 1.1, "1.1x diffusers")


def _tiny_sd3() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_sd3", Path(__file__).parents[1] / "tests" / "tiny_sd3.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_sd3"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _row(case: str, times: Times, bar: float, target: str) -> Row:
    ratio = times.ratio(OURS, ["diffusers"])
    return Row(case, "ms", {name: 1000 * times.best(name) for name in times.runs}, ratio, target, ratio[0] >= 0.95 * bar)
