"""Continuous normalizing flows: an ODE with a tractable likelihood, trained by maximum likelihood."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward.bases import Gaussian
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.divergences import Divergence, as_divergence
from pushforward.bijections.ode import ODE, Flow
from pushforward.dispatch import ability
from pushforward.errors import NotInvertibleError, UserError
from pushforward.families.model import GenerativeModel
from pushforward.functional.levels import Levels
from pushforward.guidance.guidance import Guidance
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.rk4 import RK4
from pushforward.samplers.sampler import Sampler
from pushforward.types import has_log_prob


def _example() -> tuple:
    from pushforward.nn.mlp import MLP

    net = MLP.Config((16, 16), activation="tanh", time_features=4).build((2,), 3)
    return ContinuousFlow(net, (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("families.ContinuousFlow", example=_example)
class ContinuousFlow(GenerativeModel):
    """Push noise forward onto data by an ODE dx/dt = v(x, t, cond), trained by maximum likelihood.

        log p(x) = log p_base(z) + int_0^1 div v dt,    z = x + int_0^1 v dt
        loss = (-mean log p + kinetic int |v|² dt + jacobian int |dv/dx|_F² dt) / dimensions

    The loss is in nats per dimension, like a normalizing flow's. Its gradients go through the steps of `loss_sampler`, or come from the
    adjoint ODE with, for instance, `RK4(8, adjoint=True)`. A condition may be anything the network accepts: labels (`classes`), vectors.

    Args:
        velocity: called as velocity(x, t, cond), with t from 0 (data) to 1 (noise).
        shape: shape of one event.
        base: the noise's distribution; None is N(0, I).
        kinetic: weight of the mean squared speed of trajectories; it favours short and straight ones.
        jacobian: weight of the Jacobian's squared norm along them; it favours fields that can be solved in few steps.
        divergence: divergence of the loss: "exact", "hutchinson", a `Divergence` object, or None: exact if the network has a method
            `value_and_divergence` and the Jacobian's norm is not needed, else Hutchinson's.
        loss_sampler: sampler that solves for the likelihood in the loss; with a fixed number of steps all samples cost the same.
        preprocess, sampler, classes, cond_features, cond_image, levels: as in `GenerativeModel`; the default sampler is Dopri5().

    Raises:
        UserError: a weight is negative; guidance or paired noise is given to a method.
        NotInvertibleError: loss_sampler does not solve the ODE, or the base has no density.

    Example:
        >>> model = ContinuousFlow(pf.nn.MLP(2, 2, (16,), time_features=4), (2,), kinetic=0.01, jacobian=0.01)
        >>> model.loss(torch.randn(8, 2)).shape, model.sample(3).shape
        (torch.Size([]), torch.Size([3, 2]))

    Source: Chen et al., 1806.07366; Grathwohl et al. (FFJORD), 1810.01367; Finlay et al. (RNODE), 2002.02798.
    """

    interval = (0.0, 1.0)

    def __init__(
        self,
        velocity: nn.Module | Callable[..., Tensor],
        shape: Sequence[int],
        base: Any = None,
        *,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        divergence: "str | Divergence | None" = None,
        loss_sampler: Sampler | None = None,
        preprocess: Bijection | None = None,
        sampler: Sampler | None = None,
        classes: int | None = None,
        cond_features: int | None = None,
        cond_image: Sequence[int] | None = None,
        levels: Levels = None,
    ) -> None:
        super().__init__(
            shape,
            Gaussian(shape) if base is None else base,
            preprocess=preprocess,
            sampler=Dopri5() if sampler is None else sampler,
            classes=classes,
            cond_features=cond_features,
            cond_image=cond_image,
            levels=levels,
        )
        for name, value in (("kinetic", kinetic), ("jacobian", jacobian)):
            if not value >= 0:
                raise UserError(f"{name} is {value}, but a regulariser's weight is at least 0; 0.01 is RNODE's.")
        if not has_log_prob(self.base):
            raise NotInvertibleError(f"the base {type(self.base).__name__} has no log_prob, which maximum likelihood needs; use PathModel.")
        self.velocity, self.kinetic, self.jacobian = velocity, kinetic, jacobian
        if divergence is None:
            divergence = "exact" if ability(velocity, "value_and_divergence") and not jacobian else "hutchinson"
        self.divergence = as_divergence(divergence)
        self.loss_sampler = self._ode_sampler(RK4(8) if loss_sampler is None else loss_sampler)

    def networks(self) -> list[nn.Module]:
        return [self.velocity] if isinstance(self.velocity, nn.Module) else []

    def denoiser(self, cond: Any = None, guidance: Guidance | float | None = None) -> Flow:
        """Return the denoiser that samplers call, in the model's units: (x, t) to an object with `.velocity`."""
        _refuse_guidance(guidance)
        return Flow(self.velocity, (cond,))

    def _loss(self, x: Tensor, cond: Any, noise: Tensor | None, generator: _random.Generators) -> Tensor:
        if noise is not None:
            raise UserError("noise is given, but a continuous flow finds each row's noise by itself; leave it out.")
        ode = self._ode(self.loss_sampler, self.divergence)
        if self.kinetic or self.jacobian:
            z, log_abs_det, speed, norm = ode.with_costs(x, cond, generator=generator, norm=self.jacobian > 0)
            penalty = self.kinetic * speed + self.jacobian * norm
        else:
            z, log_abs_det = ode(x, cond, generator=generator)
            penalty = torch.zeros_like(log_abs_det)
        return self._mean(penalty - self._base_log_prob(z, cond) - log_abs_det) / math.prod(self.shape)

    def _map(
        self, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, divergence: "str | Divergence | None"
    ) -> tuple[Bijection, Any]:
        _refuse_guidance(guidance)
        return self._ode(self._ode_sampler(sampler), divergence), cond

    def _ode_sampler(self, sampler: Sampler | None) -> Sampler:
        sampler = self.sampler if sampler is None else sampler
        if not isinstance(sampler, Sampler):
            raise UserError(f"sampler is {sampler!r}, but it must be an object such as pf.samplers.Euler(20) or pf.samplers.Dopri5().")
        if not sampler.solves_ode:
            raise NotInvertibleError(f"{sampler} does not solve the ODE, which is all that a continuous flow is; use Dopri5() or Heun(20).")
        return sampler

    def _ode(self, sampler: Sampler, divergence: "str | Divergence | None") -> ODE:
        return ODE(self.velocity, sampler, divergence)


def _refuse_guidance(guidance: Guidance | float | None) -> None:
    if guidance is not None:
        raise UserError(f"guidance is {guidance!r}, but a continuous flow has no use for it: it is trained by likelihood; leave it out.")
