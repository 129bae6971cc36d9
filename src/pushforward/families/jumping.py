"""What a flow map's samplers call: jumps along its trajectories and their velocity, with a condition and guidance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection
from pushforward.errors import ConditionError, NotInvertibleError, UserError
from pushforward.families.path_ode import PathODE
from pushforward.functional.prediction import per_row
from pushforward.guidance.cfg import CFG
from pushforward.guidance.extrapolation import within
from pushforward.objectives.objective import Objective
from pushforward.paths.prediction import Prediction
from pushforward.samplers.sampler import Sampler


class Jumping:
    """The map of a model as `jump(x, t, r)` for samplers that jump, and as a denoiser for those that solve its ODE.

    Args:
        model: the flow map.
        cond: condition of each sample, or None.
        guidance: its classifier-free guidance: an input of the network if it reads one, else a second evaluation.
    """

    def __init__(self, model: Any, cond: Any, guidance: CFG | None) -> None:
        self.model, self.cond, self.guidance, self.path = model, cond, guidance, model.path

    @property
    def args(self) -> tuple[Any, ...]:
        """The per-sample arguments: the condition, and the one to move away from."""
        return (self.cond, None if self.guidance is None else self.guidance.negative)

    def bind(self, cond: Any, negative: Any) -> "Jumping":
        """Return the same with other per-sample arguments."""
        guidance = self.guidance
        return Jumping(self.model, cond, None if guidance is None else CFG(guidance.scale, negative, guidance.interval))

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        """Return the velocity at x (n, *shape) and t (n,)."""
        return Prediction(self.path, "velocity", self._guided(self._objective.velocity, x, t), x, t)

    def jump(self, x: Tensor, t: float, r: float) -> Tensor:
        """Return the state at r of the trajectories through x (n, *shape) at t."""
        self._objective.check_jump(t, r, self.model.interval)
        at, end = (torch.full((x.shape[0],), one, dtype=wide(x), device=x.device) for one in (t, r))
        return self._guided(lambda model, x, t, cond, guidance: self._objective.jump(model, x, t, end, cond, guidance), x, at)

    @property
    def _objective(self) -> Objective:
        objective: Objective = self.model.objective
        return objective

    def _guided(self, call: Callable[..., Tensor], x: Tensor, t: Tensor) -> Tensor:
        guidance = self.guidance
        if guidance is None:
            return call(self.model, x, t, self.cond, None)
        if self._objective.reads_guidance:
            one = t.new_tensor([guidance.scale, *guidance.interval])
            return call(self.model, x, t, self.cond, one.expand(x.shape[0], 3))
        plain, inside = call(self.model, x, t, self.cond, None), within(t, guidance.interval)
        if inside is not None and not bool(inside.any()):
            return plain
        guided = torch.lerp(call(self.model, x, t, guidance.negative, None), plain, guidance.scale)
        return guided if inside is None else torch.where(per_row(inside, guided).bool(), guided, plain)


class JumpMap(Bijection):
    """The map of a flow map by jumps: from noise to data only.

    Args:
        jumping: the model with its condition and guidance.
        sampler: jumps that draw no noise.
    """

    def __init__(self, jumping: Jumping, sampler: Sampler) -> None:
        super().__init__()
        self.jumping, self.sampler = jumping, sampler

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        raise no_density(self.jumping.model)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        raise no_density(self.jumping.model)

    def pull(self, x: Tensor, cond: Any = None) -> Tensor:
        other = "encode with sampler=Dopri5(), which solves the ODE of its velocity" if self.jumping.model.objective.solves_ode else ""
        raise NotInvertibleError(f"{self.sampler} goes from noise to data only; {other or 'this model has no encode'}.")

    def push(self, z: Tensor, cond: Any = None) -> Tensor:
        low, high = self.jumping.model.interval
        return self.sampler(self.jumping, z, high, low)


class VelocityODE(PathODE):
    """The ODE of a flow map's velocity, for encode and decode; it has no log-determinant."""

    def forward(self, x: Tensor, cond: Any = None, *, generator: Any = None) -> tuple[Tensor, Tensor]:
        raise no_density(self._denoiser.model)  # type: ignore[union-attr]

    def inverse(self, z: Tensor, cond: Any = None, *, generator: Any = None) -> tuple[Tensor, Tensor]:
        raise no_density(self._denoiser.model)  # type: ignore[union-attr]

    def pull(self, x: Tensor, cond: Any = None) -> Tensor:
        return super().pull(x, cond)

    def push(self, z: Tensor, cond: Any = None) -> Tensor:
        return super().push(z, cond)


def no_density(model: Any) -> NotInvertibleError:
    """Return the error for a log_prob of a flow map."""
    return NotInvertibleError(
        f"{type(model.objective).__name__} learns where trajectories end, not how densities change along them, so the model has no "
        "log_prob; use a model of the velocity, such as flow_matching."
    )


def checked_guidance(guidance: Any, cond: Any, model: Any) -> CFG | None:
    """Return guidance as CFG, or None for none.

    Raises:
        UserError: it is another guidance than CFG, or the model has no use for it.
        ConditionError: there is no condition to follow.
    """
    if guidance is None:
        return None
    if not isinstance(guidance, CFG) or guidance.rescale:
        raise UserError(f"guidance is {guidance}, but a flow map takes only CFG without rescale, or its scale.")
    objective: Objective = model.objective
    if not objective.solves_ode:
        raise UserError(f"guidance is {guidance.scale}, but {type(objective).__name__} learns no guidance; guide its teacher instead.")
    if objective.reads_guidance and guidance.negative is not None:
        raise UserError("guidance has a negative condition, but this model reads guidance as a number; leave negative out.")
    guidance.check_model(model)
    if cond is None:
        raise ConditionError(f"guidance {guidance.scale:g} needs a condition to follow; give cond, or leave guidance out.")
    objective.check_guidance(guidance.scale, guidance.interval)
    return None if guidance.scale == 1 else guidance
