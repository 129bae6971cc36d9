"""RF-Inversion: an event is mapped to noise, under control towards typical noise, and back, under control towards the event."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward.bijections.bijection import pulled
from pushforward.editing.method import Method
from pushforward.errors import UserError
from pushforward.families.path_model import PathModel
from pushforward.functional.prediction import Kind, per_row
from pushforward.guidance.around import Around
from pushforward.guidance.extrapolation import checked_interval, within
from pushforward.guidance.guidance import Guidance, Guided, around_inner, plain_of
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.ddim import DDIM
from pushforward.samplers.denoiser import Denoiser


@export("editing.RFInversion", example=lambda: RFInversion(steps=10))
@dataclass(frozen=True)
class RFInversion(Method):
    """Map an event to noise under the source condition and back under the target's, both under control.

        from data to noise:  E[noise | x_t] -> (1 - gamma) E[noise | x_t] + gamma e,    e ~ N(0, I)
        from noise to data:  E[x_0 | x_t]   -> (1 - eta) E[x_0 | x_t] + eta x,    for t in `interval`

    On the linear path these are the paper's mixtures of velocities. With gamma = 0 and eta = 0 it is `encode` followed by `decode`, with
    gamma = 1 the noise is e, and with eta = 1 at all times the result is the event itself, up to rounding. Both directions take the steps
    of `samplers.DDIM`, on the linear path Euler's, so that it works on any path; at the end of a path that keeps some noise the expected
    data follow, as in `sample`.

    Args:
        source_guidance: guidance of the source condition, usually None: a scale inverts badly.
        target_guidance: guidance of the target condition: the scale of classifier-free guidance, another guidance, or None.
        steps: number of steps in each direction, one evaluation each.
        gamma: share of e, from 0 (the inversion of the ODE) to 1; 0.5 is the paper's.
        eta: share of the event, from 0 (the target alone) to 1; the paper uses 0.7 to 1.
        interval: times (low, high) at which eta applies; lower times hold on to more details of the event.
        grid: where the steps lie; None is the grid of the model's own sampler if it has one, else equal steps in t.

    Raises:
        UserError: a setting is out of range, or the model is not on a path of Gaussian noise.

    Example:
        >>> truth = pf.data.GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5)
        >>> model = pf.families.PathModel(truth.net(pf.paths.Linear()), (2,), classes=2)
        >>> edit = RFInversion(gamma=0.0, eta=0.0)
        >>> edit(model, torch.tensor([[-2.3, 0.4]]), torch.tensor([0]), torch.tensor([1])).round(decimals=1)
        tensor([[1.7000, 1.4000]])

    Source: Rout et al., Semantic image inversion and editing using rectified stochastic differential equations, 2024, arXiv 2410.10792,
    algorithms 1 and 2.
    """

    steps: int = 28
    gamma: float = 0.5
    eta: float = 0.9
    interval: tuple[float, float] = (0.75, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "eta"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, but it is a share from 0 to 1.")
        checked_interval(self.interval)

    def edited(self, model: PathModel, x: Tensor, source: Any, target: Any, generator: _random.Generators) -> Tensor:
        sampler = DDIM(self.steps, grid=self.grid_on(model))
        before, after = self.source_guidance, self.target_guidance
        if self.gamma:
            noise = model.base.sample(len(x), generator=generator) / model.path.sigma(torch.tensor(model.interval[1])).to(x)
            before = _Control("noise", noise, self.gamma, (0.0, 1.0), before)
        if self.eta:
            after = _Control("data", x, self.eta, self.interval, after)
        bijection, cond = model._map(source, sampler, before, None)
        return model._sampled(pulled(bijection, x, cond), target, sampler, after, None)


@dataclass(frozen=True, eq=False)
class _Control(Around):
    """Mix a share of what is given (n, *shape) into the predicted data or noise, at the times of an interval."""

    kind: Kind
    given: Tensor
    share: float
    interval: tuple[float, float]
    guidance: Guidance | float | None = None

    def __call__(self, denoiser: Denoiser) -> "_Controlled":
        return _Controlled(self, self.inside(denoiser), self.given)


class _Controlled(Guided):
    """A (guided) denoiser under control."""

    def __init__(self, control: _Control, inner: Denoiser | Guided, given: Tensor) -> None:
        self.control, self.inner, self.given, self.path = control, inner, given, inner.path

    @property
    def args(self) -> tuple[Any, ...]:
        return (*self.inner.args, self.given)

    def bind(self, *args: Any) -> "_Controlled":
        return _Controlled(self.control, self.inner.bind(*args[:-1]), args[-1])

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        return self._controlled(self.inner(x, t))

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        return plain_of(self.inner, x, t)

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        return self._controlled(around_inner(self.inner, plain, x, t))

    def _controlled(self, prediction: Prediction) -> Prediction:
        """Return a prediction of the same kind, so that a sampler's weights are those of all steps."""
        path, kind, x, t = prediction.path, prediction.kind, prediction.x, prediction.t
        inside = within(t, self.control.interval)
        if inside is not None and not bool(inside.any()):
            return prediction
        value = prediction.value.to(torch.promote_types(x.dtype, prediction.value.dtype))
        share = self.control.share if inside is None else per_row(self.control.share * inside.to(value.dtype), value)
        predicted = Prediction(path, kind, value, x, t).to(self.control.kind)
        factor = 1.0 if kind == self.control.kind else path.coefficients(self.control.kind, kind, t)[1]
        return Prediction(path, kind, value + share * per_row(torch.as_tensor(factor), value) * (self.given - predicted), x, t)
