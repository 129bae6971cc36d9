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
        return self._solve(x, cond, self.interval[0], self.interval[1], generator)

    def inverse(self, z: Tensor, cond: Any = None, *, generator: _random.Generators = None) -> tuple[Tensor, Tensor]:
        return self._solve(z, cond, self.interval[1], self.interval[0], generator)

    def _solve(self, x: Tensor, cond: Any, start: float, end: float, generator: _random.Generators) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        state = torch.cat((x.flatten(1).to(wide), torch.zeros(len(x), 1, dtype=wide, device=x.device)), dim=1)
        prepare = getattr(self.velocity, "prepared", None)  # what depends on weights alone is computed once a solve
        velocity = self.velocity if prepare is None else prepare()
        rates = _Rates(velocity, self.divergence, x, (cond, self.divergence.probes(x, generator)))
        state = self.sampler(rates, state, start, end)
        return state[:, :-1].reshape(x.shape).to(x.dtype), state[:, -1]

    def extra_repr(self) -> str:
        return f"sampler={self.sampler}, divergence={self.divergence}, interval={self.interval}"


class _Rates:
    """What a sampler calls: the rate of the state (x, log|det|), flattened to (n, d + 1)."""

    def __init__(self, velocity: Callable[..., Tensor], divergence: Divergence, like: Tensor, args: tuple[Any, ...]) -> None:
        self.call, self.divergence, self.like, self.args = velocity, divergence, like, args
        self.path = getattr(velocity, "path", None)

    def bind(self, *args: Any) -> "_Rates":
        return _Rates(self.call, self.divergence, self.like, args)

    def __call__(self, state: Tensor, t: Tensor) -> "_Rate":
        x = self.point(state)
        value, divergence = self.divergence(self.call, x, t, *self.args)
        return _Rate(torch.cat((value.flatten(1), divergence[:, None].to(value.dtype)), dim=1).to(state.dtype))

    def scout(self, state: Tensor, t: Tensor) -> Tensor:
        """Return the rate of x and a zero: all that counts where a sampler only looks for its next stage."""
        return F.pad(self.call(self.point(state), t, self.args[0]).flatten(1), (0, 1)).to(state.dtype)

    def point(self, state: Tensor) -> Tensor:
        return state[:, :-1].reshape(-1, *self.like.shape[1:]).to(self.like.dtype)


class _Rate:
    __slots__ = ("velocity",)

    def __init__(self, velocity: Tensor) -> None:
        self.velocity = velocity
