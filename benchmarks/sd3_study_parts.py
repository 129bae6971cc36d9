"""The four parts of the study of SD3's improvements: one training run each, by variant and seed, and what it measures."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import pushforward as pf
from benchmarks.shapes import CAPTIONS, TEXT, Shapes, drawn, energy_distance, right, texts
from pushforward.functional.modulation import modulated_norm
from pushforward.nn.joint_block import EPS, JointBlock
from pushforward.times import CosMap, LogitNormal, Mode, Times, Uniform

Values = dict[str, float]
EACH, SAMPLES = 40, 4  # pictures of each caption for training, and samples of each
TIMES: dict[str, Times] = {
    "uniform": Uniform(),
    "logit-normal(0, 1)": LogitNormal(0.0, 1.0),
    "logit-normal(0.5, 0.6)": LogitNormal(0.5, 0.6),
    "logit-normal(1, 0.6)": LogitNormal(1.0, 0.6),
    "mode(1.29)": Mode(1.29),
    "mode(1.75)": Mode(1.75),
    "CosMap": CosMap(),
}
AXES = {"2-D": 2, "1-D": 1, "none": 0}
CHANNELS = {"4 channels": 4, "8 channels": 8, "16 channels": 16}
RATES = {f"{norm}, lr {rate:g}": (norm == "QK norm", rate) for rate in (2e-3, 2e-2) for norm in ("plain", "QK norm")}


def flow(shape: tuple[int, int, int], patch: int, seed: int, *, times: Times = LogitNormal(), **net: Any) -> Any:
    """Return an untrained SD3 of 0.4 million parameters."""
    torch.manual_seed(seed)
    grid = shape[1] // patch
    config = pf.nn.MMDiT.Config(patch=patch, depth=3, heads=2, head_width=32, positions=grid, base_size=grid, **net)
    return pf.models.sd3(config, shape, text=TEXT, times=times)


def train(
    model: Any, loss: Callable[[Tensor, torch.Generator], Tensor], rows: int, steps: int, seed: int, *, batch: int, lr: float = 2e-3
) -> Any:
    """Train by AdamW: a linear warm-up of 20 steps, then a cosine to 0; `loss` takes the numbers of the rows of a batch."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: min(1, (k + 1) / 20) * (1 + math.cos(math.pi * k / steps)) / 2)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        loss(torch.randint(rows, (batch,), generator=generator), generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return model.eval()


def trained_flow(model: Any, x: Tensor, captions: Tensor, steps: int, seed: int, batch: int = 32) -> Any:
    """Return a flow after training on these pictures or latents."""

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        return model.loss(x[rows], texts(captions[rows]), generator=generator).mean()

    return train(model, loss, len(x), steps, seed, batch=batch)


@torch.no_grad()
def sampled(model: Any, evaluations: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return samples, as many of each caption, with the number of their caption."""
    captions = torch.arange(len(CAPTIONS)).repeat(SAMPLES)
    generator = torch.Generator().manual_seed(100 + seed)
    return model.sample(len(captions), texts(captions), sampler=pf.samplers.Euler(evaluations), generator=generator), captions


def judged(pictures: Tensor, captions: Tensor, known: Shapes, suffix: str = "") -> Values:
    """Return the share of pictures that show their caption, and their energy distance to unseen pictures."""
    return {f"right{suffix}": right(pictures, captions, known), f"energy{suffix}": energy_distance(pictures, known.x[: 20 * len(CAPTIONS)])}


def times(variant: str, seed: int, steps: int) -> Values:
    data, known = drawn(EACH, 16, seed), drawn(200, 16, 1000)
    model = trained_flow(flow((3, 16, 16), 4, seed, times=TIMES[variant]), data.x, data.captions, steps, seed)
    few, many = (judged(*sampled(model, n, seed), known, f" {n} steps") for n in (5, 25))
    return few | many


def positions(variant: str, seed: int, steps: int) -> Values:
    data, known = drawn(EACH, 16, seed), drawn(200, 16, 1000)
    axes = AXES[variant]
    model = flow((3, 16, 16), 2, seed, position_axes=axes or 2)
    if not axes:
        model.net.positions.zero_()
    trained_flow(model, data.x, data.captions, steps, seed)
    return judged(*sampled(model, 25, seed), known)


def latents(variant: str, seed: int, steps: int) -> Values:
    data, known = drawn(EACH, 32, seed), drawn(100, 32, 1000)
    torch.manual_seed(seed)
    vae = pf.models.autoencoder_kl((3, 32, 32), CHANNELS[variant], (8, 16, 32, 32), groups=4, preprocess="none")
    train(vae, lambda rows, generator: vae.loss(data.x[rows], generator=generator).mean(), len(data.x), steps, seed, batch=32, lr=3e-3)
    first = 4 * len(CAPTIONS)
    unseen, rest = Shapes(known.x[:first], known.captions[:first]), Shapes(known.x[first:], known.captions[first:])
    with torch.no_grad():
        vae.fit_scale(data.x[:512])
        x = torch.cat([vae.encode(some) for some in data.x.split(256)])
        again = vae.decode(vae.encode(unseen.x))
    psnr = 10 * math.log10(4 / float((again - unseen.x).square().mean()))
    model = trained_flow(flow(tuple(x.shape[1:]), 1, seed), x, data.captions, 2 * steps, seed)
    latent, captions = sampled(model, 25, seed)
    with torch.no_grad():
        pictures = vae.decode(latent)
    values = {"PSNR": psnr, "right, reconstructed": right(again, unseen.captions, rest)}
    return values | judged(pictures, captions, rest)


def qk_norm(variant: str, seed: int, steps: int) -> Values:
    data = drawn(EACH, 16, seed)
    norm, rate = RATES[variant]
    model = flow((3, 16, 16), 4, seed, qk_norm=norm)
    losses: list[float] = []

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            value = model.loss(data.x[rows], texts(data.captions[rows]), generator=generator).mean()
        losses.append(float(value.detach()))
        return value

    with largest_logits(model.net) as logits:
        train(model, loss, len(data.x), steps, seed, batch=32, lr=rate)
    late = torch.tensor(losses[20:], dtype=torch.float64)
    usual = late.unfold(0, 21, 1)[:, :20].median(dim=1).values  # of the 20 steps before each
    return {"largest logit": max(logits), "spikes": float((late[20:] > 1.5 * usual).sum()), "final loss": float(late[-20:].mean())}


@contextmanager
def largest_logits(net: Any) -> Iterator[list[float]]:
    """Collect the largest |q k' / sqrt(c)| of each block in each pass."""
    found: list[float] = []

    @torch.no_grad()
    def measure(block: JointBlock, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        heads = []
        for tokens, stream, vectors in zip(inputs[:2], (block.image, block.text), block.vectors(inputs[2]), strict=True):
            heads.append(stream.attention.qkv_of(modulated_norm(tokens, vectors[0], vectors[1], EPS)))
        k = torch.cat([one[1] for one in heads], dim=1).float()
        q = torch.cat([one[0] for one in heads], dim=1).float() if block.text.mlp is not None else heads[0][0].float()
        found.append(float(torch.einsum("nqhc,nkhc->nhqk", q, k).abs().max()) / q.shape[3] ** 0.5)

    hooks = [block.register_forward_pre_hook(measure) for block in net.blocks]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
