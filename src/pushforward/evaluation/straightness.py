"""Straightness and energy of a model's trajectories."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward.errors import UserError
from pushforward.families.model import GenerativeModel
from pushforward.families.path_model import PathModel
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.types import path_of


@dataclass(frozen=True)
class Straightness:
    """The result of `straightness`, in squared units of the model's data; `energy` = `bend` + `transport`."""

    bend: float
    energy: float
    transport: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.bend:.4f} +- {self.standard_error:.4f} (energy {self.energy:.4f}, transport {self.transport:.4f})"


def _example() -> tuple:
    from pushforward.models.rectified_flow import rectified_flow
    from pushforward.nn.mlp import MLP

    return rectified_flow(MLP.Config((8,)), (2,)), 8


@export("evaluation.straightness", example=_example)
@torch.no_grad()
def straightness(
    model: GenerativeModel,
    n: int = 2000,
    cond: Any = None,
    *,
    sampler: Sampler | None = None,
    generator: _random.Generators = None,
) -> Straightness:
    """Measure how far trajectories are from straight lines at constant speed.

        S = int_0^1 E |(x_1 - x_0) - v(x_t, t)|² dt = int_0^1 E |v|² dt - E |x_1 - x_0|²

    0 means that a single Euler step is exact. The energy int E |v|² dt is at least the squared Wasserstein distance of the two
    ends, with equality only for optimal transport. On a path's interval of another length, t is the fraction of that interval.

    Args:
        model: a model that solves an ODE.
        n: number of trajectories.
        cond: condition of each (leading dimension n), or None.
        sampler: solver of trajectories and energy; None uses Dopri5().
        generator: random generator of the noise.

    Returns:
        A frozen record: bend (S), energy, transport E |x_1 - x_0|², and the standard error of S, in the model's (preprocessed) units.

    Raises:
        UserError: the model solves no ODE, or n is below 2.
        ConditionError: cond is not one condition per trajectory.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.rectified_flow(pf.nn.MLP.Config((8,)), (2,))
        >>> pf.evaluation.straightness(model, 100).bend >= 0
        True

    Source: Liu, Gong and Liu, 2209.03003, eq. 10 (S); Tong et al., 2302.00482, section 5 (path energy).
    """
    if not isinstance(model, PathModel):
        raise UserError(f"a {type(model).__name__} has no trajectories, so straightness is not defined for it.")
    if n < 2:
        raise UserError(f"n is {n}, but a mean with a standard error needs at least 2 trajectories.")
    cond = model._checked_cond(cond, n)
    noise = model.base.sample(n, generator=generator)
    t_min, t_max = model.interval
    start = torch.cat((noise.flatten(1), noise.new_zeros(n, 1)), dim=1)
    end = model._ode_sampler(Dopri5() if sampler is None else sampler)(_Energy(model.denoiser(cond), noise), start, t_max, t_min)
    energy = -end[:, -1].double() * (t_max - t_min)
    transport = (noise.flatten(1) - end[:, :-1]).double().square().sum(1)
    bend = energy - transport
    return Straightness(float(bend.mean()), float(energy.mean()), float(transport.mean()), float(bend.std() / n**0.5))


class _Energy:
    """The time derivative of (x, int |v|² dt), flattened to (n, d + 1), as a denoiser for samplers."""

    def __init__(self, denoiser: Any, like: Tensor) -> None:
        self.denoiser, self.like, self.args = denoiser, like, denoiser.args
        self.path = path_of(denoiser)

    def bind(self, *args: Any) -> "_Energy":
        return _Energy(self.denoiser.bind(*args), self.like)

    def __call__(self, state: Tensor, t: Tensor) -> "_Rate":
        v = self.denoiser(state[:, :-1].reshape(-1, *self.like.shape[1:]), t).velocity.flatten(1)
        return _Rate(torch.cat((v, v.square().sum(1, keepdim=True)), dim=1))


class _Rate:
    __slots__ = ("velocity",)

    def __init__(self, velocity: Tensor) -> None:
        self.velocity = velocity
