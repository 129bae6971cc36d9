"""A model trained from an energy."""

import math
from typing import Any

import torch

from pushforward._checks import real, whole
from pushforward.energies.energy import Energy
from pushforward.energies.reverse_kl import Estimator, reverse_kl
from pushforward.errors import DivergedError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.registry import export

SKIPPED = 100  # steps in a row without finite gradients that end the training


@export("energies.fit")
def fit(
    model: GenerativeModel,
    energy: Energy,
    steps: int = 1000,
    *,
    batch_size: int = 256,
    lr: float = 1e-3,
    estimator: Estimator = "path",
    cond: Any = None,
    seed: int = 0,
) -> list[float]:
    """Train a model from an energy by the reverse divergence: Adam, gradients clipped to norm 1, the rate falling to 0 as a cosine.

    Args:
        model: a model with a density, trained in place; it is left in eval mode.
        energy: a function that returns the energies (n,) of x (n, *shape), in the data's units, differentiable.
        steps: number of steps.
        batch_size: samples per step.
        lr: learning rate at the start.
        estimator: that of the gradient (see `reverse_kl`).
        cond: condition of each of the `batch_size` samples, or None.
        seed: seed of the samples.

    Returns:
        The loss of each step, KL(q | p) - log Z in nats; steps whose gradient is not finite are skipped, and their losses kept.

    Raises:
        UserError: a number is out of range, or the model has no density.
        DivergedError: 100 steps in a row had no finite gradient.

    Example:
        >>> model = pf.models.realnvp(2, layers=2, hidden=(8,))
        >>> len(fit(model, pf.energies.DoubleWell(2), steps=2, batch_size=8))
        2

    Source: Noé, Olsson, Köhler and Wu, Boltzmann generators, 2019, arXiv 1812.01729 (training by energy).
    """
    whole("steps", steps, 1)
    if not real("lr", lr, 0.0) > 0:
        raise UserError(f"lr is {lr}, but a learning rate is positive; 1e-3 is usual.")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=lr)
    generator = torch.Generator(parameters[0].device).manual_seed(seed)
    losses: list[float] = []
    skipped = 0
    model.train()
    for k in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * k / steps)) / 2
        optimiser.zero_grad(set_to_none=True)
        loss = reverse_kl(model, energy, batch_size, cond, estimator=estimator, generator=generator)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        losses.append(loss.item())
        skipped = 0 if torch.isfinite(norm) else skipped + 1
        if skipped >= SKIPPED:
            raise DivergedError(f"{SKIPPED} steps in a row had no finite gradient; check the energy, or use a smaller lr than {lr:g}.")
        if not skipped:
            optimiser.step()
    model.eval()
    return losses
