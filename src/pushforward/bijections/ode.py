"""An ordinary differential equation as a bijection: invertible by integration."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pushforward import _random
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.divergences import Divergence, as_divergence
from pushforward.errors import NotInvertibleError
from pushforward.registry import export
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler


def _example() -> tuple:
    from pushforward.nn.mlp import MLP

    return ODE(MLP(3, 3, (8, 8), activation="tanh", time_features=4), Dopri5(1e-10, 1e-10)), torch.randn(4, 3), None


@export("bijections.ODE", example=_example, exactness="solved")
class ODE(Bijection):
    """The solution of dx/dt = velocity(x, t, cond) from t0 to t1, with the integral of the divergence as its log-determinant.

        z = x + int v dt,    log|det dz/dx| = int div v dt

    The state and its log-determinant are solved together, so that an adaptive sampler's tolerance holds for both.

    Args:
        velocity: called as velocity(x, t, cond) with x (n, *shape) and t (n,); a Module's parameters become this one's. If it has a
            method `value_and_divergence(x, t, cond)`, the exact divergence is that.
        sampler: a sampler that solves the ODE, such as Dopri5() or Midpoint(20).
        divergence: "exact", "hutchinson", or an object with its settings.
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
        return self._solve(x, cond, self.interval[0], self.interval[1], generator)[:2]

    def with_costs(
        self, x: Tensor, cond: Any = None, *, generator: _random.Generators = None, norm: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return z, log|det dz/dx| and two costs of the way there (n,): int |v|² dt, and int |dv/dx|_F² dt (0 without `norm`).

        They are solved together with the rest and have gradients: regularisers that keep trajectories straight and a solver's steps few.

        Source: Finlay et al. (RNODE), 2002.02798, eq. 9.
        """
        return self._solve(x, cond, self.interval[0], self.interval[1], generator, 2 if norm else 1)

    def inverse(self, z: Tensor, cond: Any = None, *, generator: _random.Generators = None) -> tuple[Tensor, Tensor]:
        return self._solve(z, cond, self.interval[1], self.interval[0], generator)[:2]

    def _solve(
        self, x: Tensor, cond: Any, start: float, end: float, generator: _random.Generators, costs: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        state = torch.cat((x.flatten(1).to(wide), torch.zeros(len(x), 1 + costs, dtype=wide, device=x.device)), dim=1)
        prepare = getattr(self.velocity, "prepared", None)  # what depends on weights and times alone is computed once a solve
        velocity = self.velocity if prepare is None else prepare(self.sampler.stage_times(getattr(self.velocity, "path", None), start, end))
        rates = _Rates(velocity, self.divergence, x, (cond, self.divergence.probes(x, generator)), costs)
        d, state = state.shape[1] - 1 - costs, self.sampler(rates, state, start, end)
        none = state.new_zeros(len(x))
        gathered = [state[:, d + k] if k <= costs else none for k in range(3)]
        return state[:, :d].reshape(x.shape).to(x.dtype), gathered[0], gathered[1], gathered[2]

    def extra_repr(self) -> str:
        return f"sampler={self.sampler}, divergence={self.divergence}, interval={self.interval}"


class _Rates:
    """What a sampler calls: the rate of the state (x, log|det|, costs so far), flattened to (n, d + 1 + costs)."""

    def __init__(
        self, velocity: Callable[..., Tensor], divergence: Divergence, like: Tensor, args: tuple[Any, ...], costs: int = 0
    ) -> None:
        self.call, self.divergence, self.like, self.args, self.costs = velocity, divergence, like, args, costs
        self.path = getattr(velocity, "path", None)

    def bind(self, *args: Any) -> "_Rates":
        return _Rates(self.call, self.divergence, self.like, args, self.costs)

    def __call__(self, state: Tensor, t: Tensor) -> "_Rate":
        x = self.point(state)
        if self.costs == 2:
            value, *rates = self.divergence.with_norm(self.call, x, t, *self.args)
        else:
            value, *rates = self.divergence(self.call, x, t, *self.args)
        flat = value.flatten(1)
        if self.costs:
            rates.insert(1, flat.square().sum(1))
        return _Rate(torch.cat((flat, *(rate[:, None].to(value.dtype) for rate in rates)), dim=1).to(state.dtype))

    def scout(self, state: Tensor, t: Tensor) -> Tensor:
        """Return the rate of x, and zeros: all that counts where a sampler only looks for its next stage."""
        return F.pad(self.call(self.point(state), t, self.args[0]).flatten(1), (0, 1 + self.costs)).to(state.dtype)

    def point(self, state: Tensor) -> Tensor:
        return state[:, : state.shape[1] - 1 - self.costs].reshape(-1, *self.like.shape[1:]).to(self.like.dtype)


class _Rate:
    __slots__ = ("velocity",)

    def __init__(self, velocity: Tensor) -> None:
        self.velocity = velocity
