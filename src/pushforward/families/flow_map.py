"""Few-step models: a network of two times learns where the trajectories of a flow end, so that samples take one evaluation or a few."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pushforward import _random
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.divergences import Divergence
from pushforward.errors import NotInvertibleError, UserError
from pushforward.families.checks import check_unconditional
from pushforward.families.dropped import masked
from pushforward.families.jumping import Jumping, JumpMap, VelocityODE, checked_guidance, no_density
from pushforward.families.on_path import OnPath
from pushforward.families.teaching import Teacher, taught_units
from pushforward.functional.levels import Levels
from pushforward.functional.prediction import Kind
from pushforward.guidance.around import as_guidance
from pushforward.guidance.guidance import Guidance
from pushforward.objectives.mean_flow import MeanFlow
from pushforward.objectives.objective import Objective
from pushforward.paths.linear import Linear
from pushforward.paths.path import Path
from pushforward.registry import export
from pushforward.samplers.jumps import Jumps, JumpSampler, Renoise
from pushforward.samplers.sampler import Sampler


def _example() -> tuple:
    import torch

    from pushforward.nn.mlp import MLP

    return FlowMap(MLP.Config((16, 16)).build((2,), 3, numbers=1), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("families.FlowMap", example=_example)
class FlowMap(OnPath):
    """Learn the flow map: the state at r of the trajectory through x at t.

        x_r = x_t - (t - r) net(x_t, t, cond, r=r)    for objectives of an average velocity
        x_0 = data prediction of net(x_t, t, cond)    for consistency objectives

    `sample` and `decode` jump (`samplers.Jumps`, one evaluation by default) or jump and renoise (`samplers.Renoise`). Objectives of an
    average velocity also learn the velocity, so that samplers of ODEs work, and `encode` with one of them. There is no log_prob.

    The value of the loss is the plain squared error; its gradient is that of the objective's weighted loss, whose value hardly changes.

    Args:
        net: called as net(x, t, cond, r=r) with r (n,), the other end of the interval; net(x, t, cond) for consistency objectives.
        shape: shape of one event.
        path: the schedule; objectives of an average velocity need Linear(), the default.
        objective: how the network is read and learned, such as `objectives.MeanFlow()`, the default.
        prediction: what the network of a consistency objective predicts.
        base: the noise's distribution; None is N(0, sigma(t_max)²).
        teacher: a path model of equal events whose velocity replaces that of data and noise, and whose units the model has: leave
            `preprocess` out, or give one of its kind. It is not a part of the model.
        drop_cond: share of samples whose condition is dropped in training, as required for guidance.
        null: what a network of your own takes for no condition, as in `PathModel`.
        interval: (t_min, t_max) within the path's; None is the largest on which the prediction determines the velocity.
        preprocess, sampler, classes, cond_features, cond_image, levels: as in `GenerativeModel`; the default sampler is Jumps(1).

    Raises:
        UserError: the path does not fit the objective; a teacher with other events, conditions or units.

    Source: Geng et al., 2505.13447; Frans et al., 2410.12557; Song et al., 2303.01469; Boffi et al., Flow map matching, 2406.07507.
    """

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        shape: Sequence[int],
        path: Path | None = None,
        objective: Objective | None = None,
        prediction: Kind = "velocity",
        base: Any = None,
        *,
        teacher: Any = None,
        drop_cond: float = 0.0,
        null: Any = None,
        interval: tuple[float, float] | None = None,
        preprocess: Bijection | None = None,
        sampler: Sampler | None = None,
        classes: int | None = None,
        cond_features: int | None = None,
        cond_image: Sequence[int] | None = None,
        levels: Levels = None,
    ) -> None:
        path = Linear() if path is None else path
        interval = path.interval_for(prediction) if interval is None else interval
        condition: Any = {"classes": classes, "cond_features": cond_features, "cond_image": cond_image}
        options: Any = {"preprocess": preprocess, "sampler": Jumps() if sampler is None else sampler, "levels": levels, **condition}
        super().__init__(net, shape, path, (interval[0], interval[1]), base, drop_cond=drop_cond, null=null, **options)
        self.objective = MeanFlow() if objective is None else objective
        if self.objective.solves_ode and not isinstance(path, Linear):
            raise UserError(f"path is {path}, but {type(self.objective).__name__} learns an average velocity along Linear(); leave it out.")
        self.prediction = prediction
        self.objective.check_model(self)
        self._teacher = None if teacher is None else Teacher(teacher, self)
        self.fitted = teacher is not None  # whether units are a teacher's, and not to be fitted to data
        self.started = False  # whether the network has a teacher's weights, and with them its units of conditions
        if teacher is not None:
            self.preprocess = taught_units(self.preprocess, teacher.preprocess)
        self._averaged: tuple[Any, ...] = ()  # in a tuple, so that it is no part of the model

    @property
    def teacher(self) -> Any:
        """The model whose velocity it learns from, or None for data."""
        return None if self._teacher is None else self._teacher.model

    @property
    def verbs(self) -> tuple[str, ...]:
        return ("loss", "sample", "encode", "decode") if self.objective.solves_ode else ("loss", "sample", "decode")

    # What objectives read (`objectives.objective.FlowMapping`).

    @property
    def averaged_net(self) -> Any:
        """The network with averaged weights if a Trainer keeps them, else the network itself."""
        return self._averaged[0].net if self._averaged and self.training else self.net

    def follow_average(self, averaged: Any) -> None:
        """Use the averaged weights of another model, whose parameters a Trainer updates, for targets; None for the model's own."""
        self._averaged = () if averaged is None or averaged is self else (averaged,)

    def target(self, x: Tensor, noise: Tensor, x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Return the velocity (n, *shape) that is learned at x_t: the teacher's, or that of the pair of data and noise."""
        if self._teacher is None:
            return self.path.target("velocity", x, noise, t)
        return self._teacher.velocity(x_t, t, cond)

    def step(self, x: Tensor, noise: Tensor, x_t: Tensor, t: Tensor, r: Tensor, cond: Any) -> Tensor:
        """Return the state at r (n,) of the trajectory through x_t: by the teacher's ODE, or the line of the pair of data and noise."""
        if self._teacher is None:
            return self.path.mix(x, noise, r)
        return self._teacher.step(x_t, t, r, cond)

    def dropped(self, cond: Any, mask: Tensor) -> Any:
        """Return a condition without the rows where mask (n,) is true."""
        return masked(cond, mask, self.conditioning, self.null)

    # What the verbs are made of.

    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Fit `preprocess` and the units of conditions to training data, as in `GenerativeModel`.

        With a teacher `preprocess` is the teacher's, and so are the units of conditions if the network started with its weights.
        """
        if not self.fitted:
            super().initialise(x, cond)
        elif not self.started:
            self._fit_condition(x, cond)

    def _loss(self, x: Tensor, cond: Any, noise: Tensor | None, generator: _random.Generators) -> Tensor:
        if noise is None:
            noise = self.base.sample(len(x), generator=generator)
        losses = self.objective.losses(self, x, noise / self._noise_scale, cond, generator)
        plain = losses.plain.detach()
        if self.watch is not None and self.training:
            self.watch(losses.t, plain)
        weighted = self._mean(losses.weighted)
        return weighted - weighted.detach() + self._mean(plain)

    def _map(
        self, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, divergence: "str | Divergence | None"
    ) -> tuple[Bijection, Any]:
        if divergence is not None:
            raise no_density(self)
        jumping, own = self.denoiser(cond, guidance), self._sampler(sampler)
        self.check_sampler(own)
        if not own.jumps:
            return VelocityODE(jumping, own, None, self.interval), jumping.args  # type: ignore[arg-type]
        if isinstance(own, JumpSampler) and own.draws:
            raise NotInvertibleError(f"{own} draws noise, so decode is no function of z under it; use Jumps().")
        return JumpMap(jumping, own), jumping.args

    def _sampled(
        self, noise: Tensor, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, generator: _random.Generators
    ) -> Tensor:
        jumping, own = self.denoiser(cond, guidance), self._sampler(sampler)
        self.check_sampler(own)
        low, high = self.interval
        return own(jumping, noise, high, low, generator)

    def denoiser(self, cond: Any = None, guidance: Guidance | float | None = None) -> Jumping:
        """Return what samplers call, in the model's units: jump(x, t, r), and the velocity at (x, t), with a condition and guidance."""
        steered = checked_guidance(as_guidance(guidance), cond, self)
        if cond is not None:
            check_unconditional(steered, self)
        return Jumping(self, cond, steered)

    def check_sampler(self, sampler: Sampler | None = None) -> None:
        """Raise unless samples can be drawn with a sampler; None is the model's own.

        Raises:
            UserError: it is no sampler of flow maps, or its jumps are not those that the objective learns.
            NotInvertibleError: it solves an ODE, and the objective learns no velocity.
        """
        own = self._sampler(sampler)
        if not own.jumps:
            if not own.solves_ode:
                raise UserError(
                    f"sampler is {own}, but a flow map samples by Jumps() or Renoise(2), or by a sampler of ODEs such as Dopri5()."
                )
            self.objective.check_ode()
        elif isinstance(own, JumpSampler):
            if own.draws and not self.gaussian:
                base = type(self.base).__name__
                raise UserError(f"{own} draws noise again, but the base {base} is not Gaussian noise of the path; use Jumps().")
            low, high = self.interval
            for t, r in own.times(self.path, high, low):
                self.objective.check_jump(t, r, self.interval)

    def sampler_of(self, evaluations: int) -> Sampler:
        return Jumps(evaluations) if self.objective.solves_ode else Renoise(evaluations)

    def _check_density(self) -> None:
        raise no_density(self)

    def _sampler(self, sampler: Sampler | None) -> Sampler:
        sampler = self.sampler if sampler is None else sampler
        if not isinstance(sampler, Sampler):
            raise UserError(f"sampler is {sampler!r}, but it must be an object such as pf.samplers.Jumps(2) or pf.samplers.Renoise(2).")
        return sampler
