"""One evaluation of the MMDiT against diffusers', and against its bare matrix products and attentions.

Depth 6, width 384 (six heads), 333 text tokens of 4096 channels, pooled text of 2048, latents of 16 channels. The floor does the products
of the same shapes and nothing else: no normalisation, no modulation, no activation, no residual, and attention on preallocated tensors.
The last rows use prepared text, as a sampler does: the maps that are the same in all steps are precomputed (`MMDiT.prepare`).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor

from benchmarks.rows import FLOOR, OURS, Row, rows
from benchmarks.timing import Times, race
from pushforward.conditions import TextContext
from pushforward.formats.sd3 import SD3Files
from pushforward.formats.sd3_write import write_sd3
from pushforward.nn.mmdit import FREQUENCIES, MMDiT

DEPTH, HEADS, TEXT, CONTEXT, POOLED, PATCH = 6, 6, 333, 4096, 2048, 16 * 4
WIDTH = 64 * HEADS
TITLE = f"MMDiT, depth {DEPTH}, width {WIDTH}, {TEXT} text tokens"
PREPARED = "prepared text"


@rows
def mmdit() -> list[Row]:
    torch.manual_seed(0)
    found = []
    for qk_norm in (False, True):
        ours, peer = networks(qk_norm)
        for tokens, turns in ((256, 12), (1024, 6), (4096, 1)):
            for batch in (1, 2):
                if qk_norm and (tokens, batch) != (1024, 1):
                    continue
                times = _race(ours, peer, tokens, batch, turns)
                found += _rows(times, tokens, batch, qk_norm)
    return found


def networks(qk_norm: bool) -> tuple[MMDiT, SD3Transformer2DModel]:
    """Return our network and diffusers' with the same random weights and equal outputs."""
    ours = MMDiT((16, 128, 128), depth=DEPTH, heads=HEADS, context_width=CONTEXT, pooled_width=POOLED, qk_norm=qk_norm).eval()
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        write_sd3(Path(folder) / "written", SD3Files(ours), "diffusers")
        peer = SD3Transformer2DModel.from_pretrained(Path(folder) / "written" / "transformer").eval()
    return ours, peer


def _race(ours: MMDiT, peer: SD3Transformer2DModel, tokens: int, batch: int, turns: int) -> Times:
    side = 2 * round(tokens**0.5)
    x, t = torch.randn(batch, 16, side, side), torch.rand(batch)
    cond = TextContext(torch.randn(batch, TEXT, CONTEXT), torch.randn(batch, POOLED))
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, cond), peer(x, cond.context, cond.pooled, 1000 * t).sample, rtol=1e-4, atol=1e-4)
        prepared = ours.prepare(cond, batch)
        return race(
            {
                OURS: lambda: ours(x, t, cond),
                PREPARED: lambda: ours(x, t, prepared),
                "diffusers": lambda: peer(x, cond.context, cond.pooled, 1000 * t).sample,
                FLOOR: _floor(tokens, batch),
            },
            turns,
        )


def _floor(tokens: int, batch: int) -> Callable[[], None]:
    """Return a function that does the matrix products and attentions of one evaluation, in their order, on preallocated tensors."""

    def product(count: int, inputs: int, outputs: int) -> Callable[[], Tensor]:
        x, weight, bias = torch.randn(batch * count, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
        return lambda: F.linear(x, weight, bias)

    def attention(asking: int, answering: int) -> Callable[[], Tensor]:
        q, k, v = (torch.randn(batch, count, HEADS, 64).transpose(1, 2) for count in (asking, answering, answering))
        return lambda: F.scaled_dot_product_attention(q, k, v)

    everything = tokens + TEXT
    calls = [product(tokens, PATCH, WIDTH), product(TEXT, CONTEXT, WIDTH)]
    calls += [product(1, inputs, WIDTH) for inputs in (FREQUENCIES, WIDTH, POOLED, WIDTH)]
    for k in range(DEPTH):
        last = k == DEPTH - 1
        calls += [product(1, WIDTH, 6 * WIDTH), product(1, WIDTH, (2 if last else 6) * WIDTH)]
        calls += [product(tokens, WIDTH, 3 * WIDTH), product(TEXT, WIDTH, (2 if last else 3) * WIDTH)]
        calls += [attention(tokens if last else everything, everything)]
        for count in (tokens,) if last else (tokens, TEXT):
            calls += [product(count, WIDTH, WIDTH), product(count, WIDTH, 4 * WIDTH), product(count, 4 * WIDTH, WIDTH)]
    calls += [product(1, WIDTH, 2 * WIDTH), product(tokens, WIDTH, PATCH)]

    def run() -> None:
        for call in calls:
            call()

    return run


def _rows(times: Times, tokens: int, batch: int, qk_norm: bool) -> list[Row]:
    wanted = 1.0 if tokens == 4096 else 1.15
    ratio, over_floor = times.ratio(OURS, ["diffusers"]), times.ratio(OURS, [FLOOR])[0]
    target = f"{wanted:g}x diffusers; 1.15x of the floor (is {1 / over_floor:.2f}x)"
    passed = ratio[0] >= 0.95 * wanted and over_floor >= 1 / (1.05 * 1.15)
    case = f"{TITLE}{', queries normalised' if qk_norm else ''}: {tokens} image tokens, batch {batch}"
    values = {name: 1000 * times.best(name) for name in (OURS, "diffusers", FLOOR)}
    found = [Row(case, "ms", values, ratio, target, passed)]
    if (tokens, batch) == (1024, 1):
        values = {OURS: 1000 * times.best(PREPARED), "diffusers": values["diffusers"]}
        found += [Row("… with the text's own maps done before", "ms", values, times.ratio(PREPARED, ["diffusers"]), "–", True)]
    return found
