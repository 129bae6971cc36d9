"""FlowEdit: an event moves along the difference of two velocities, without being inverted to noise."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pushforward import _random
from pushforward._checks import whole
from pushforward._precision import wide
from pushforward.editing.method import Method
from pushforward.families.path_model import PathModel
from pushforward.guidance.around import as_guidance
from pushforward.guidance.guidance import Guidance
from pushforward.guidance.loop import noise_share
from pushforward.paths.linear import Linear
from pushforward.registry import export
from pushforward.samplers.grids import clock


@export("editing.FlowEdit", example=lambda: FlowEdit(steps=10))
@dataclass(frozen=True)
class FlowEdit(Method):
    """Move an event by the difference of the target's and the source's velocity, both at the same noise.

        z_source = (1 - t) x + t noise,    z_target = z_source + d,    d' = v(z_target, t, target) - v(z_source, t, source),    result x + d

    t falls from 1 to 0 in `steps`, of which the last `n_max` are taken, with new noise in each. With equal conditions and guidance on both
    sides d stays 0, and the event is returned exactly. If the last `n_min` steps are plain sampling under the target condition, details
    follow the model rather than the event, and this no longer holds. Models on other paths are followed along the linear one
    (`PathModel.follow`), without training. A step costs `n_avg` evaluations under each condition.

    Args:
        source_guidance: guidance of the source condition: the scale of classifier-free guidance, another guidance, or None.
        target_guidance: guidance of the target condition; for Stable Diffusion 3 the paper uses scales of 3.5 and 13.5.
        steps: number of steps from noise to data.
        n_max: number of steps that are taken, the last ones: fewer keep more of the event; None is two thirds of `steps`, 33 of 50.
        n_min: number of those, at the end, in which the target is sampled.
        n_avg: noises to average over in each step.
        grid: where the steps lie; None is the grid of the model's own sampler if it has one, else equal steps in t.

    Raises:
        UserError: a setting is out of range, or the model is not on a path of Gaussian noise.

    Example:
        >>> truth = pf.data.GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5)
        >>> model = pf.families.PathModel(truth.net(Linear()), (2,), classes=2)
        >>> FlowEdit(n_max=50)(model, torch.tensor([[-2.3, 0.4]]), torch.tensor([0]), torch.tensor([1]))
        tensor([[1.7000, 1.4000]])

    Source: Kulikov et al., FlowEdit: inversion-free text-based editing using pre-trained flow models, 2024, arXiv 2412.08629, algorithm 1.
    """

    n_max: int | None = None
    n_min: int = 0
    n_avg: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_max is not None:
            whole("n_max", self.n_max, 1, self.steps, hint="it counts steps, the last ones")
        whole("n_min", self.n_min, 0, self._taken, hint="it counts steps out of n_max")
        whole("n_avg", self.n_avg, 1)

    @property
    def _taken(self) -> int:
        return max(1, round(0.66 * self.steps)) if self.n_max is None else self.n_max

    def edited(self, model: PathModel, x: Tensor, source: Any, target: Any, generator: _random.Generators) -> Tensor:
        low, high = model.interval
        times = self.grid_on(model)(high, low, self.steps, model.path)
        if type(model.path) is not Linear:  # the same signal-to-noise ratios on the linear path
            times = noise_share(model.path, clock(model.path, times)).tolist()
            model = model.follow(Linear())
        times[-1] = 0.0  # the last step ends at the data
        scale = model.interval[1]
        before, after = (
            model.denoiser(cond, _on(guidance, times))
            for cond, guidance in ((source, self.source_guidance), (target, self.target_guidance))
        )

        def velocity(denoiser: Any, z: Tensor, t: float) -> Tensor:
            value: Tensor = denoiser(z, z.new_full((len(z),), t, dtype=wide(z))).velocity
            return value.to(z.dtype)

        def noisy(t: float) -> Tensor:
            return torch.lerp(x, model.base.sample(len(x), generator=generator) / scale, t)

        first, last = self.steps - self._taken, self.steps - self.n_min
        d = torch.zeros_like(x)
        for t, s in pairwise(times[first : last + 1]):
            difference = torch.zeros_like(x)
            for _ in range(self.n_avg):
                z = noisy(t)
                difference += velocity(after, z + d, t) - velocity(before, z, t)
            d = d + (s - t) / self.n_avg * difference
        if not self.n_min:
            return x + d
        z = noisy(times[last]) + d
        for t, s in pairwise(times[last:]):
            z = z + (s - t) * velocity(after, z, t)
        return z


def _on(guidance: Guidance | float | None, times: list[float]) -> Guidance | None:
    steered = as_guidance(guidance)
    return steered if steered is None or not steered.needs_times else steered.on(times)
