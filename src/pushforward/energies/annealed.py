"""Annealed importance sampling: from a model to the target through distributions in between, with Hamiltonian moves at each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import real, whole
from pushforward.bases import Torus
from pushforward.bijections.elementwise import wrapped
from pushforward.energies.energy import Energy, energies_of
from pushforward.energies.importance import Weighted
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.registry import export


@export("energies.Annealed")
@dataclass(frozen=True, eq=False)
class Annealed(Weighted):
    """Weighted samples after annealing.

    Args:
        x: samples (n, *shape).
        log_weights: logarithms of their weights (n,), in nats.
        acceptance: share of the moves that were accepted; about 0.65 to 0.9 is good, less asks for a smaller step.
    """

    acceptance: float = 1.0


@export("energies.annealed_importance")
@torch.no_grad()
def annealed_importance(
    model: GenerativeModel,
    energy: Energy,
    n: int,
    cond: Any = None,
    *,
    temperatures: int = 16,
    step_size: float = 0.1,
    leapfrogs: int = 5,
    generator: torch.Generator | None = None,
) -> Annealed:
    """Return n samples moved from a model towards exp(-energy), with weights that correct for what the moves did not reach.

        log p_b = -b E + (1 - b) log q,    b = 0, 1/K, .., 1:    log w += (b_(k+1) - b_k) (-E(x) - log q(x)),    then a move that keeps p_b

    As in `importance` E[w] = Z, for any number of temperatures K and any moves; more of them make the weights more equal. A move is one
    Hamiltonian trajectory, accepted or rejected as a whole; the last is at b = 1.

    Args:
        model: a model with a density.
        energy: a function that returns the energies (n,) of x (n, *shape), in the data's units, differentiable.
        n: number of samples, at least 1.
        cond: condition of each sample, or None.
        temperatures: K, at least 1.
        step_size: length of a leapfrog step, in the data's units.
        leapfrogs: steps of a trajectory; 0 is no move, so that the weights are those of `importance`.
        generator: randomness of the samples and moves.

    Returns:
        The samples with their weights, and the share of accepted moves.

    Raises:
        UserError: the model has no density, an energy is NaN, or a number is out of range.
        ShapeError: the energy is not one number per sample.

    Example:
        >>> model = pf.models.nsf(2, layers=2, hidden=(8,))
        >>> annealed_importance(model, pf.energies.DoubleWell(2), 10, temperatures=2).x.shape
        torch.Size([10, 2])

    Source: Neal, Annealed importance sampling, 2001, arXiv physics/9803008; between a flow and its target: Midgley et al., 2022, arXiv
    2208.01893, section 3; the moves: Duane, Kennedy, Pendleton and Roweth, Hybrid Monte Carlo, 1987.
    """
    whole("n", n, 1)
    whole("temperatures", temperatures, 1)
    whole("leapfrogs", leapfrogs, 0)
    if not real("step_size", step_size, 0.0) > 0:
        raise UserError(f"step_size is {step_size}, but a step is longer than 0; 0.1 is usual.")
    if leapfrogs and torch.is_inference_mode_enabled():
        raise UserError("the moves of annealing differentiate, which torch.inference_mode rules out; use torch.no_grad, or leapfrogs=0.")
    # Angles that a move takes past pi are wrapped to -pi, as the energy is of one period.
    folded = wrapped if isinstance(model.base, Torus) and model.preprocess is None else torch.clone
    x, log_q = model.sample(n, cond, log_prob=True, generator=generator)
    log_p, log_weights, accepted = -energies_of(energy, x), torch.zeros_like(log_q), 0.0

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return -energies_of(energy, x), model.log_prob(x, cond)

    for k in range(1, temperatures + 1):
        log_weights = log_weights + (log_p - log_q) / temperatures
        if leapfrogs:
            x, (log_p, log_q), share = _moved(both, k / temperatures, x, (log_p, log_q), step_size, leapfrogs, folded, generator)
            accepted += share / temperatures
    return Annealed(x, log_weights, accepted if leapfrogs else 1.0)


def _moved(
    both: Callable[[Tensor], tuple[Tensor, Tensor]],
    b: float,
    x: Tensor,
    here: tuple[Tensor, Tensor],
    step: float,
    count: int,
    folded: Callable[[Tensor], Tensor],
    generator: torch.Generator | None,
) -> tuple[Tensor, tuple[Tensor, Tensor], float]:
    """Return x after one Hamiltonian move that keeps b log_p + (1 - b) log_q, both densities there, and the share of accepted moves."""

    def force(y: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the gradient at y, and both densities there."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            log_p, log_q = both(y)
            (gradient,) = torch.autograd.grad((b * log_p + (1 - b) * log_q).sum(), y)
        return gradient, (log_p.detach(), log_q.detach())

    def kinetic(p: Tensor) -> Tensor:
        return p.square().flatten(1).sum(1) / 2

    momentum = start = _random.normal(x.shape, generator, x.device, x.dtype)
    y, (pull, there) = x, force(x)
    for _ in range(count):
        momentum = momentum + step / 2 * pull
        y = folded(y + step * momentum)
        pull, there = force(y)
        momentum = momentum + step / 2 * pull
    change = b * (there[0] - here[0]) + (1 - b) * (there[1] - here[1]) + kinetic(start) - kinetic(momentum)
    u = _random.uniform((len(x),), generator, x.device, change.dtype)
    taken = u.log() < change  # false where a trajectory diverged to NaN
    rows = taken.view(-1, *(1,) * (x.ndim - 1))
    kept = tuple(torch.where(taken, new, old) for new, old in zip(there, here, strict=True))
    return torch.where(rows, y, x), (kept[0], kept[1]), taken.double().mean().item()
