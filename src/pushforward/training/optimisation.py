"""AdamW, its schedule, and averaged weights."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pushforward.training.settings import Settings


def optimiser(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW over a model's parameters; only matrices and convolutions decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed = [p for _, p in trained if p.ndim >= 2 and id(p) not in embeddings]
    plain = [p for _, p in trained if p.ndim < 2 or id(p) in embeddings]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas, fused=_fusable(trained))


def _fusable(trained: Sequence[tuple[str, Tensor]]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for _, p in trained)


def learning_rate(settings: Settings, step: int) -> float:
    """Return the learning rate of a step: a linear rise, then a cosine to `final_lr` (or a constant)."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a model's weights, whose decay warms up as (1 + updates) / (10 + updates)."""

    @torch.no_grad()
    def update(averages: Iterable[Tensor], currents: Iterable[Tensor], updates: Tensor | int) -> None:
        now = min(decay, (1 + int(updates)) / (10 + int(updates)))
        pairs = [(a, c) for a, c in zip(averages, currents, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in pairs], [c for _, c in pairs], 1 - now)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=False)
