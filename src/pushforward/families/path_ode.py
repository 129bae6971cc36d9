"""The ODE of a denoiser as a bijection, in the model's units."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pushforward import _random
from pushforward._checks import like_input
from pushforward.bijections.divergences import Divergence
from pushforward.bijections.ode import ODE
from pushforward.dispatch import ability, preparer
from pushforward.errors import NotInvertibleError
from pushforward.functional.prediction import combine
from pushforward.guidance.guidance import Guided
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.sampler import Sampler


class PathODE(ODE):
    """The ODE along a path from data to noise; its condition is `denoiser.args`, the denoiser's per-sample arguments.

    Args:
        denoiser: returns predictions, guided or not.
        sampler: a sampler that solves the ODE.
        divergence: "exact", "hutchinson", or a `Divergence` object.
        interval: (t_min, t_max) of the model.
        one_step: whether the network was distilled into one step, and only maps noise to data.
    """

    def __init__(
        self,
        denoiser: Denoiser | Guided,
        sampler: Sampler,
        divergence: "str | Divergence | None",
        interval: Sequence[float],
        one_step: bool = False,
    ) -> None:
        super().__init__(velocity_of(denoiser), sampler, divergence, interval)
        self._denoiser, self.one_step = denoiser, one_step

    def denoiser(self, cond: Any) -> Denoiser | Guided:
        return self._denoiser if cond is self._denoiser.args or cond is None else self._denoiser.bind(*cond)

    def forward(self, x: Tensor, cond: Any = None, *, generator: _random.Generators = None) -> tuple[Tensor, Tensor]:
        self._refuse_one_step("log_prob")
        return super().forward(x, cond, generator=generator)

    def inverse(self, z: Tensor, cond: Any = None, *, generator: _random.Generators = None) -> tuple[Tensor, Tensor]:
        self._refuse_one_step("log_prob")
        return super().inverse(z, cond, generator=generator)

    def pull(self, x: Tensor, cond: Any = None) -> Tensor:
        self._refuse_one_step("encode")
        return super().pull(x, cond)

    def push(self, z: Tensor, cond: Any = None) -> Tensor:
        return super().push(z, cond)  # named here, next to `inverse`, so that it belongs to it (see `dispatch.ability`)

    def _refuse_one_step(self, what: str) -> None:
        if self.one_step:
            raise NotInvertibleError(
                f"this model was distilled into one step from t = {self.interval[1]:g} and has no {what}; use what it was distilled from."
            )


def velocity_of(denoiser: Denoiser | Guided) -> "_Velocity":
    """Return a denoiser as velocity(x, t, args), with `value_and_divergence` if the network has it."""
    if type(denoiser) is Denoiser and ability(denoiser.net, "value_and_divergence") is not None:
        return _VelocityWithDivergence(denoiser)
    return _Velocity(denoiser)


class _Velocity:
    """A denoiser as the function velocity(x, t, args) that `ODE` takes, where args are the denoiser's per-sample arguments."""

    def __init__(self, denoiser: Denoiser | Guided) -> None:
        self.denoiser, self.path = denoiser, denoiser.path

    def __call__(self, x: Tensor, t: Tensor, args: tuple[Any, ...]) -> Tensor:
        return self.denoiser.bind(*args)(x, t).velocity


class _VelocityWithDivergence(_Velocity):
    """The same for a network that computes its own divergence: velocity = a x + b net, so div velocity = a d + b div net."""

    denoiser: Denoiser

    def __call__(self, x: Tensor, t: Tensor, args: tuple[Any, ...]) -> Tensor:
        direct = self.denoiser.prediction == "velocity"  # the most common case, which needs no conversion
        return like_input(self.denoiser.net(x, t, *args), x) if direct else super().__call__(x, t, args)

    def prepared(self, times: Sequence[float] | None) -> "_VelocityWithDivergence":
        """Return the same, prepared for many calls, at these times if they are known."""
        one, prepare = self.denoiser, preparer(self.denoiser.net)
        return self if prepare is None else _VelocityWithDivergence(Denoiser(prepare(times), one.path, one.prediction, one.cond))

    def value_and_divergence(self, x: Tensor, t: Tensor, args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        denoiser = self.denoiser
        value, divergence = denoiser.net.value_and_divergence(x, t, *args)  # type: ignore[attr-defined]
        if denoiser.prediction == "velocity":
            return value, divergence
        a, b = self.path.coefficients(denoiser.prediction, "velocity", t)
        return combine(a, x, b, value), a * (x[0].numel() if x.shape[0] else 0) + b * divergence
