"""AdamW, its schedule, and averaged weights."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pushforward.training.settings import Settings
from pushforward.training.shards import local


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


class Averaged(AveragedModel):
    """An exponential moving average of a model's weights, whose decay warms up as (1 + updates) / (10 + updates).

    Args:
        model: whose weights are averaged; the average starts as a copy, which shares the frozen parameters.
        decay: reached after the warm-up.
        copied: a copy that was made already, as of a sharded model; its frozen parameters are its own.
    """

    def __init__(self, model: nn.Module, decay: float, copied: nn.Module | None = None) -> None:
        super().__init__(nn.Identity(), use_buffers=False)
        frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
        self.module = copy.deepcopy(model, frozen) if copied is None else copied
        self.decay = decay
        pairs = [(a, c) for a, c in zip(self.module.parameters(), model.parameters(), strict=True) if c.requires_grad]
        # Cached: collecting the parameters of both models takes longer than averaging small ones.
        self._averages, self._currents = [local(a) for a, _ in pairs], [local(c) for _, c in pairs]

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the weights of the model that was given to the constructor."""
        updates = int(self.n_averaged)
        now = min(self.decay, (1 + updates) / (10 + updates)) if updates else 0.0
        torch._foreach_lerp_(self._averages, self._currents, 1 - now)
        self.n_averaged += 1
