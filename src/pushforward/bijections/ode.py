"""An ordinary differential equation as a bijection: invertible by integration."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward import _modes, _random
from pushforward._checks import like_input
from pushforward._modes import outside_inference_mode, values_alone
from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.divergences import Divergence, ExactDivergence, as_divergence
from pushforward.dispatch import ability, preparer
from pushforward.errors import NotInvertibleError
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.types import path_of


def _example() -> tuple:
    from pushforward.nn.mlp import MLP

    return ODE(MLP(3, 3, (8, 8), activation="tanh", time_features=4), Dopri5(1e-10, 1e-10)), torch.randn(4, 3), None


@export("bijections.ODE", example=_example, exactness="solved")
class ODE(Bijection):
    """The flow of the ODE dx/dt = velocity(x, t, cond) from t0 to t1; its log-determinant is the integral of the divergence.

        z = x + int v dt,    log|det dz/dx| = int div v dt

    State and log-determinant are integrated together, so that an adaptive sampler's tolerance holds for both.

    Args:
        velocity: called as velocity(x, t, cond) with x (n, *shape) and t (n,); a Module is registered as a submodule. If it has a method
            `value_and_divergence(x, t, cond)`, the exact divergence uses it.
        sampler: a sampler that solves the ODE, such as Dopri5() or Midpoint(20).
        divergence: "exact", "hutchinson", or a `Divergence` object.
        interval: (t0, t1), from data to noise.

    Raises:
        NotInvertibleError: the sampler is stochastic or does not solve the ODE.

    Source: Chen et al., 1806.07366, theorem 1; Grathwohl et al., FFJORD, 1810.01367.
    """

    def __init__(
        self,
        velocity: Callable[..., Tensor],
        sampler: Sampler | None = None,
        divergence: "str | Divergence | None" = "exact",
        interval: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.velocity = velocity
        self.sampler = Dopri5() if sampler is None else sampler
        if not self.sampler.solves_ode:
            raise NotInvertibleError(
                f"{self.sampler} does not solve the ODE, so it has no inverse and no log_prob; use Dopri5() or Heun(20)."
            )
        self.divergence = as_divergence(divergence)
        self.interval = (float(interval[0]), float(interval[1]))

    def forward(self, x: Tensor, cond: Any = None, *, generator: _random.Generators = None) -> tuple[Tensor, Tensor]:
        z, log_abs_det, *_ = self._solve(x, cond, self.interval[0], self.interval[1], generator)
        return z, log_abs_det

    def with_costs(
        self, x: Tensor, cond: Any = None, *, generator: _random.Generators = None, norm: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return z, log|det dz/dx| and two costs of the trajectory (n,): int |v|² dt, and int |dv/dx|_F² dt (0 without `norm`).

        The costs are differentiable: as regularisers they make trajectories straight, so that a solver needs few steps.

        Source: Finlay et al. (RNODE), 2002.02798, eq. 9.
        """
        z, log_abs_det, kinetic, norms = self._solve(x, cond, self.interval[0], self.interval[1], generator, 2 if norm else 1)
        return z, log_abs_det, kinetic, norms

    def inverse(self, z: Tensor, cond: Any = None, *, generator: _random.Generators = None) -> tuple[Tensor, Tensor]:
        x, log_abs_det, *_ = self._solve(z, cond, self.interval[1], self.interval[0], generator)
        return x, log_abs_det

    def pull(self, x: Tensor, cond: Any = None) -> Tensor:
        return self.sampler(self.denoiser(cond), x, self.interval[0], self.interval[1])

    def push(self, z: Tensor, cond: Any = None) -> Tensor:
        return self.sampler(self.denoiser(cond), z, self.interval[1], self.interval[0])

    def denoiser(self, cond: Any) -> Any:
        """Return the denoiser that the sampler calls if no log-determinant is needed."""
        return Flow(self.velocity, (cond,))

    @outside_inference_mode
    def _solve(self, x: Tensor, cond: Any, start: float, end: float, generator: _random.Generators, costs: int = 0) -> tuple[Tensor, ...]:
        path = path_of(self.velocity)
        prepare = preparer(self.velocity)  # what depends only on weights and times is computed once per solve
        # Calls of such a network are short: without autograd's bookkeeping a solve takes 3 % less time.
        bare = prepare is not None and not costs and isinstance(self.divergence, ExactDivergence)
        bare = bare and values_alone() and _modes.INFERENCE_DIFFERENTIATES
        with torch.inference_mode() if bare else contextlib.nullcontext():
            velocity = self.velocity if prepare is None else prepare(self.sampler.stage_times(path, start, end))
            args = (cond, self.divergence.probes(x, generator))
            dtype = wide(x)
            rates = _Rates(velocity, self.divergence, x, args, costs)
            own = ability(self.sampler, "with_rates")
            found = NotImplemented if own is None else own(rates, x.to(dtype), start, end)
            if found is NotImplemented:  # any other sampler: the integrals are part of its state
                state = self.sampler(rates, F.pad(x.flatten(1).to(dtype), (0, 1 + costs)), start, end)
                z, gathered = rates.parted(state)
            else:
                z, gathered = found
            solved = z.reshape(x.shape).to(x.dtype), *gathered, *[z.new_zeros(x.shape[0])] * (2 - costs)
        return tuple(one.clone() for one in solved) if bare else solved

    def extra_repr(self) -> str:
        return f"sampler={self.sampler}, divergence={self.divergence}, interval={self.interval}"


class _Rates:
    """The field that a sampler evaluates: d/dt of (x, log|det|, costs) as one state (n, d + 1 + costs), or of x and the rest separately."""

    def __init__(
        self, velocity: Callable[..., Tensor], divergence: Divergence, like: Tensor, args: tuple[Any, ...], costs: int = 0
    ) -> None:
        self.call, self.divergence, self.like, self.args, self.costs = velocity, divergence, like, args, costs
        self.path = path_of(velocity)

    def bind(self, *args: Any) -> "_Rates":
        return _Rates(self.call, self.divergence, self.like, args, self.costs)

    def __call__(self, state: Tensor, t: Tensor) -> "_Rate":
        x = state[:, : state.shape[1] - 1 - self.costs]
        value, rates = self.value_and_rates(x.reshape(-1, *self.like.shape[1:]), t)
        return _Rate(torch.cat((value.flatten(1), *(rate[:, None].to(value.dtype) for rate in rates)), dim=1).to(state.dtype))

    def parted(self, state: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return x (n, d) and the integrals so far, each (n,)."""
        d = state.shape[1] - 1 - self.costs
        return state[:, :d], list(state[:, d:].unbind(1))

    def value(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity at x (n, *shape)."""
        x = x if x.dtype == self.like.dtype else x.to(self.like.dtype)
        return like_input(self.call(x, t, self.args[0]), x, "the velocity")

    def value_and_rates(self, x: Tensor, t: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the velocity at x (n, *shape) and the time derivatives of log|det| and of the costs, each (n,)."""
        how = self.divergence.with_norm if self.costs == 2 else self.divergence
        value, *rates = how(self.call, x if x.dtype == self.like.dtype else x.to(self.like.dtype), t, *self.args)
        like_input(value, x, "the velocity")
        if self.costs:
            rates.insert(1, value.flatten(1).square().sum(1))
        return value, rates


class Flow:
    """A velocity with its per-sample arguments, in the form that samplers call."""

    def __init__(self, velocity: Callable[..., Tensor], args: tuple[Any, ...]) -> None:
        self.call, self.args = velocity, args
        self.path = path_of(velocity)

    def bind(self, *args: Any) -> "Flow":
        return Flow(self.call, args)

    def __call__(self, x: Tensor, t: Tensor) -> "_Rate":
        return _Rate(like_input(self.call(x, t, *self.args), x, "the velocity"))


class _Rate:
    __slots__ = ("velocity",)

    def __init__(self, velocity: Tensor) -> None:
        self.velocity = velocity
