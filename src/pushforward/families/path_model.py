"""Models of a Gaussian path: diffusion, flow matching and rectified flow are one family, trained by regression, sampled by an ODE."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward._checks import like_input, shown
from pushforward._precision import wide
from pushforward.bases import Gaussian
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.divergences import Divergence
from pushforward.conditions import rows_of
from pushforward.dispatch import ability
from pushforward.errors import NotInvertibleError, UserError
from pushforward.families.checks import check_unconditional, device_of
from pushforward.families.dropped import with_dropped
from pushforward.families.following import Following, common_interval
from pushforward.families.on_path import OnPath
from pushforward.families.path_ode import PathODE
from pushforward.families.variance_bound import variance_bound
from pushforward.functional.levels import Levels, cells
from pushforward.functional.prediction import Kind, per_row
from pushforward.guidance.around import as_guidance, loop_of
from pushforward.guidance.guidance import Guidance, Guided
from pushforward.guidance.measured import Units
from pushforward.pairings import Independent, Pairing
from pushforward.paths.linear import Linear
from pushforward.paths.path import Path
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.dopri5 import Dopri5
from pushforward.samplers.sampler import Sampler
from pushforward.times import Point, Times, Uniform
from pushforward.weightings import Weighting


def _example() -> tuple:
    from pushforward.nn.mlp import MLP

    return PathModel(MLP.Config((16, 16)).build((2,), 3), (2,), classes=3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0])


@export("families.PathModel", example=_example)
class PathModel(OnPath):
    """Learn the velocity that carries noise to data along a path x_t = alpha_t data + sigma_t noise.

        loss = E |net(x_t, t, cond) - target|²,    mean over the event, t drawn from `times` on the path's interval

    A network that also predicts a variance (`nn.WithVariance`) learns it from the variational bound, which is added to the loss.

    Sampling solves dx/dt = velocity from noise to data; the likelihood is that of the ODE, with exact or estimated divergence. If the
    interval ends with some noise (sigma(t_min) > 0), `sample` finishes with one more evaluation, the expected data; encode, decode,
    log_prob and `sample(log_prob=True)` use x at t_min itself and stay inverse to each other.

    Args:
        net: called as net(x, t, cond).
        shape: shape of one event.
        path: the schedule.
        prediction: what the network predicts: "velocity", "noise", "data" or "score", or "v" on a variance preserving path.
        times: distribution of the training times t.
        pairing: how noise and data are paired within a batch.
        base: the noise's distribution; None is N(0, sigma(t_max)²). Anything with `.sample`, also data (`bases.Samples`); without
            `.log_prob` there are no likelihoods, and nothing that needs Gaussian noise: stochastic samplers, the score, temperature.
        drop_cond: share of samples whose condition is dropped in training, as required for guidance.
        null: what a network of your own, or one of records, takes for no condition: a tensor or a record of one row, such as the
            `TextContext` of an empty prompt. Networks of this library know without it.
        weighting: a weight of the loss that depends on t, such as `weightings.MinSNR()`; None is 1.
        bridge: additional noise between the ends, x_t + bridge sin²(pi t) xi with xi ~ N(0, I): a stochastic interpolant. The learned
            velocity still maps one end to the other; only for the prediction "velocity".
        interval: (t_min, t_max) within the path's; None is the largest on which the prediction determines the velocity.
        preprocess, sampler, classes, cond_features, cond_image, levels: as in `GenerativeModel`; the default sampler is Dopri5().

    Raises:
        UserError: an unknown prediction, "v" on a path that is not variance preserving, or a share out of range.
        ConditionError: drop_cond without a kind of condition; several kinds.

    Source: Lipman et al., 2210.02747; Liu et al., 2209.03003; Song et al., 2011.13456; Albergo, Boffi and Vanden-Eijnden, 2303.08797
    (bridge).
    """

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        shape: Sequence[int],
        path: Path | None = None,
        prediction: Kind = "velocity",
        times: Times | None = None,
        pairing: Pairing | None = None,
        base: Any = None,
        *,
        drop_cond: float = 0.0,
        null: Any = None,
        weighting: Weighting | None = None,
        bridge: float = 0.0,
        interval: tuple[float, float] | None = None,
        preprocess: Bijection | None = None,
        sampler: Sampler | None = None,
        classes: int | None = None,
        cond_features: int | None = None,
        cond_image: Sequence[int] | None = None,
        levels: Levels = None,
    ) -> None:
        if not callable(net):
            raise UserError(
                f"net is {shown(net)}, but it must be a Module or function net(x, t, cond), or nn.MLP.Config() or other settings."
            )
        path = Linear() if path is None else path
        interval = path.interval_for(prediction) if interval is None else interval
        sampler = Dopri5() if sampler is None else sampler
        condition: Any = {"classes": classes, "cond_features": cond_features, "cond_image": cond_image}
        options: Any = {"preprocess": preprocess, "sampler": sampler, "levels": levels, **condition}
        super().__init__(net, shape, path, (interval[0], interval[1]), base, drop_cond=drop_cond, null=null, **options)
        if bridge < 0 or (bridge and prediction != "velocity"):
            raise UserError(
                f"bridge is {bridge} and prediction {prediction!r}, but a bridge's noise is at least 0 and for the velocity; use bridge=0."
            )
        if prediction == "score" and not self.gaussian:
            raise UserError(f"prediction is 'score', but the base {type(base).__name__} is not Gaussian noise of the path; use 'velocity'.")
        self.prediction = prediction
        self.times = Uniform() if times is None else times
        self.pairing = Independent() if pairing is None else pairing
        self.weighting, self.bridge = weighting, bridge

    def follow(self, path: Path) -> "PathModel":
        """Return the same model along another path, without training: it shares the network and generates the same data.

            x_tau = c x_t at the tau with log-SNR_tau = log-SNR_t,    c = alpha_tau / alpha_t = sigma_tau / sigma_t

        Its interval covers the log-SNRs that both paths have. If both end at the same log-SNRs, decode(c_max z) is c_min decode(z) exactly,
        and samples that finish with the expected data are equal. Its prediction is the velocity. It is saved and loaded like any model.

        Args:
            path: the schedule to follow.

        Raises:
            UserError: the base is not the path's own Gaussian noise.
        """
        if type(self.base) is not Gaussian or not self.gaussian:
            raise UserError(
                f"the base is {type(self.base).__name__}, but only a model from the Gaussian noise of its path can follow another one."
            )
        followed = PathModel(
            Following(self.net, self.path, self.prediction, path, self.interval),
            self.shape,
            path,
            "velocity",
            self.times,
            self.pairing,
            interval=common_interval(self.path, self.interval, path),
            drop_cond=self.drop_cond,
            null=self.null,
            preprocess=self.preprocess,
            sampler=self.sampler,
            levels=self.levels,
            **vars(self.conditioning),
        ).to(self.base.like)
        followed.schema = self.schema
        if self.config is not None:
            followed.config = {**self.config, "follow": (*self.config.get("follow", ()), path)}
        return followed.train(self.training)

    def denoiser(self, cond: Any = None, guidance: Guidance | float | None = None) -> Denoiser | Guided:
        """Return the denoiser that samplers call, in the model's units: (x, t) to a prediction, with a condition and guidance."""
        steered, own = as_guidance(guidance), ability(self.net, "prepare")
        if steered is not None:
            steered = steered.on_model(self)
        if cond is not None:
            check_unconditional(steered, self)
        if steered is not None and steered.shares_condition:
            own = None  # another network is given the same condition
        if cond is not None and own is not None and not torch.is_grad_enabled():
            prepare = functools.partial(own, n=rows_of(cond))  # time-independent processing of a condition, computed once
            cond, steered = prepare(cond), None if steered is None else steered.prepared(prepare)
        denoiser = Denoiser(self.net, self.path, self.prediction, cond)
        return denoiser if steered is None else steered(denoiser)

    def _noise_for(self, x: Tensor, generator: _random.Generators) -> Tensor:
        """Return the noise (n, *shape) of the rows of a loss."""
        noise: Tensor = self.base.sample(x.shape[0], generator=generator)
        return noise

    def _loss(self, x: Tensor, cond: Any, noise: Tensor | None, generator: _random.Generators) -> Tensor:
        n = x.shape[0]
        if noise is None:
            noise = self._noise_for(x, generator)
            x, noise, cond = self.pairing(x, noise, cond, generator)
        noise = noise / self._noise_scale
        low, high = self.interval
        t = low + (high - low) * self.times.sample(n, generator, x.device, wide(x))
        if self.training and self.drop_cond and cond is not None:
            cond = with_dropped(cond, self.drop_cond, self.conditioning, generator, self.null)
        x_t, target = self.path.mix(x, noise, t), self.path.target(self.prediction, x, noise, t)
        if self.bridge:
            xi = _random.normal(x.shape, generator, x.device, x.dtype)
            x_t = torch.addcmul(x_t, xi, per_row(self.bridge * torch.sin(math.pi * t) ** 2, x))
            target = torch.addcmul(target, xi, per_row(self.bridge * math.pi * torch.sin(2 * math.pi * t), x))
        learned = ability(self.net, "with_variance")
        value, share = (self.net(x_t, t, cond), None) if learned is None else learned(x_t, t, cond)
        losses = (like_input(value, x) - target).square()  # another shape would broadcast: each output against all targets
        if self.weighting is not None:
            losses = losses * per_row(self.weighting(self.path, self.prediction, t), losses)
        if share is not None:
            predicted = Prediction(self.path, self.prediction, value, x_t, t).data
            losses = losses + variance_bound(self.path, x, predicted, share, t, low).to(losses.dtype)
        if self.watch is not None and self.training:
            self.watch(t, losses.detach().flatten(1).mean(1))
        return self._mean(losses)

    def _map(
        self, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, divergence: "str | Divergence | None"
    ) -> tuple[Bijection, Any]:
        if loop_of(guidance, sampler) is not None:
            raise NotInvertibleError(
                f"guidance is {guidance}, which draws noise in a loop of its own and solves no ODE; use sample, or MMPS."
            )
        solver = self._ode_sampler(sampler)
        denoiser = self.denoiser(cond, self._stepped(guidance, solver))
        return PathODE(denoiser, solver, divergence, self.interval, self.one_step), denoiser.args

    def _sampled(
        self, noise: Tensor, cond: Any, sampler: Sampler | None, guidance: Guidance | float | None, generator: _random.Generators
    ) -> Tensor:
        own = loop_of(guidance, sampler) or self._sampler(sampler)
        denoiser = self.denoiser(cond, self._stepped(guidance, own))
        if not own.solves_ode and not self.gaussian:
            base = type(self.base).__name__
            raise UserError(f"{own} draws noise by the score, but the base {base} is not Gaussian noise of the path; use Dopri5().")
        t_min, t_max = self.interval
        end = own.last_time(self.path, t_min)
        x = own(denoiser, noise, t_max, end, generator)
        if self._noise_left and end >= t_min:  # below it the sampler itself ended with the expected data
            t = torch.full((x.shape[0],), end, dtype=wide(x), device=x.device)
            x = denoiser(x, t).data.to(x.dtype)
        return x

    def _stepped(self, guidance: Guidance | float | None, sampler: Sampler) -> Guidance | None:
        """Return guidance that knows the times of a sampler's steps, if it depends on them."""
        steered = as_guidance(guidance)
        if steered is None or not steered.needs_times:
            return steered
        t_min, t_max = self.interval
        times = sampler.step_times(self.path, t_max, sampler.last_time(self.path, t_min))
        if times is None:
            raise UserError(
                f"guidance is {steered}, whose strength depends on a sampler's steps, but {sampler} chooses its own; use a sampler of "
                "fixed steps such as pf.samplers.DDIM(20)."
            )
        return steered.on(times)

    @property
    def units(self) -> Units:
        """How data in the model's units become events in the user's, of quantised data the integers: the middle of a cell is its level."""
        like = torch.empty(0, dtype=self.dtype, device=device_of(self))
        return Units(lambda z: self._from_model(z) - 0.5 * cells(self.levels, z), self.shape, like)

    def _guided(self, guidance: Guidance | float | None, sampler: Sampler | None, log_prob: bool) -> Guidance | None:
        steered = as_guidance(guidance)
        if steered is None:
            return None
        if log_prob and not steered.has_density:
            raise UserError(
                f"log_prob is set, but samples under {type(steered).__name__} have no density that is known: the posterior's needs p(y)."
            )
        loop_of(steered, sampler)
        return steered.on_model(self)

    @property
    def one_step(self) -> bool:
        """Whether it was distilled into one step, from t_max only."""
        return isinstance(self.times, Point)

    def _sampler(self, sampler: Sampler | None) -> Sampler:
        sampler = self.sampler if sampler is None else sampler
        if not isinstance(sampler, Sampler):
            raise UserError(f"sampler is {sampler!r}, but it must be an object such as pf.samplers.Euler(20) or pf.samplers.Dopri5().")
        return sampler

    def _ode_sampler(self, sampler: Sampler | None) -> Sampler:
        if sampler is None and not self._sampler(None).solves_ode:
            return Dopri5()  # the model's own sampler draws noise; encode, decode and log_prob still use the ODE
        sampler = self._sampler(sampler)
        if not sampler.solves_ode:
            raise NotInvertibleError(
                f"{sampler} does not solve the ODE, so encode and decode are not inverse under it; use Dopri5() or Heun(20)."
            )
        return sampler
