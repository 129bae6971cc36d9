"""Skip-layer guidance: extrapolation away from the prediction of a transformer with some of its blocks skipped."""

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pushforward.errors import UserError
from pushforward.functional.prediction import per_row
from pushforward.guidance.around import Around, as_guidance
from pushforward.guidance.cfg import CFG
from pushforward.guidance.extrapolation import checked_interval, within
from pushforward.guidance.guidance import Guidance, Guided, around_inner, plain_of
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser


@export("guidance.SkipLayers", example=lambda: SkipLayers((1,), guidance=CFG(3.0)))
@dataclass(frozen=True)
class SkipLayers(Around):
    """Guide a velocity away from the conditional prediction with some blocks of the network skipped.

        v + scale (v_cond - v_skip),    v_skip = net(x, t, cond, skip=layers)

    A skipped block returns its input unchanged. The network is evaluated once more at times inside the interval.

    Args:
        layers: indices of the blocks to skip, from 0; 7, 8 and 9 for Stable Diffusion 3.5 medium.
        scale: strength; 0 is none.
        interval: times (low, high) at which to apply it. Outside, only the inner guidance applies.
        guidance: what v is: another guidance, the scale of classifier-free guidance, or None for v_cond.
        steps: shares (start, stop) of a sampler's n steps in place of an interval: steps k with n start < k < n stop, counted from 0.
            Their times depend on the sampler: `on` sets them, as in `StableDiffusion3.sample`.

    Raises:
        UserError: no layers, a negative one, one that the network does not have, an interval out of range, or a network that cannot
            skip blocks.

    Source: Stability AI's inference code of Stable Diffusion 3.5 (SkipLayerCFGDenoiser); Hyung et al., 2411.18664.
    """

    layers: Sequence[int] = (7, 8, 9)
    scale: float = 2.8
    interval: tuple[float, float] = (0.0, 1.0)
    guidance: Guidance | float | None = None
    steps: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_interval(self.interval)
        if self.steps is not None and not 0 <= self.steps[0] < self.steps[1] <= 1:
            raise UserError(f"steps is {self.steps}, but it must be shares (start, stop) with 0 <= start < stop <= 1, such as (0.01, 0.2).")
        if not self.layers or min(self.layers) < 0:
            raise UserError(f"layers is {self.layers!r}, but it lists blocks to leave out, counted from 0, such as (7, 8, 9).")

    def __call__(self, denoiser: Denoiser) -> "_Skipping":
        """Return the guided denoiser."""
        if self.steps is not None:
            raise UserError(f"steps is {self.steps}, but their times are not known here; use on(times), or interval=(low, high).")
        self.check(denoiser.net)
        skipping = Denoiser(functools.partial(denoiser.net, skip=tuple(self.layers)), denoiser.path, denoiser.prediction, denoiser.cond)
        return _Skipping(self, self.inside(denoiser), skipping)

    @property
    def needs_times(self) -> bool:
        return self.steps is not None or super().needs_times

    def check(self, net: Any) -> None:
        """Raise an error unless a network has all of the layers and can skip them.

        Raises:
            UserError: it has fewer blocks, or cannot skip any.
        """
        if "skip" not in inspect.signature(getattr(net, "forward", net)).parameters:
            raise UserError(f"layers is {tuple(self.layers)}, but {type(net).__name__} cannot leave blocks out; use an MMDiT.")
        blocks = getattr(net, "blocks", None)
        if blocks is not None and max(self.layers) >= len(blocks):
            raise UserError(f"layers is {tuple(self.layers)}, but the network has the blocks 0 to {len(blocks) - 1}; give some of these.")

    def on(self, times: Sequence[float]) -> "SkipLayers | Guidance | None":
        """Return it with the interval of its steps among the n + 1 times of a sampler; only the inner guidance if there are none."""
        if self.steps is None:
            return super().on(times)
        n = len(times) - 1
        inside = [k for k in range(n) if n * self.steps[0] < k < n * self.steps[1]]
        inner = as_guidance(self.guidance)
        inner = None if inner is None else inner.on(times)
        if not inside:
            return inner
        first, last = inside[0], inside[-1]
        # Ends half way to the adjacent times: a time is rounded to float32 when compared.
        high = (times[first - 1] + times[first]) / 2 if first else 1.0
        return replace(self, steps=None, guidance=inner, interval=((times[last] + times[last + 1]) / 2, high))


class _Skipping(Guided):
    """A (guided) denoiser combined with the same network with some blocks skipped."""

    def __init__(self, guidance: SkipLayers, inner: Denoiser | Guided, skipping: Denoiser) -> None:
        self.guidance, self.inner, self.skipping, self.path = guidance, inner, skipping, inner.path

    @property
    def args(self) -> tuple[Any, ...]:
        return (*self.inner.args, self.skipping.cond)

    def bind(self, *args: Any) -> "_Skipping":
        return _Skipping(self.guidance, self.inner.bind(*args[:-1]), self.skipping.bind(args[-1]))

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        return plain_of(self.inner, x, t)

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        velocity = around_inner(self.inner, plain, x, t).velocity
        add = within(t, self.guidance.interval)
        if self.guidance.scale and (add is None or bool(add.any())):
            added = torch.add(velocity, plain - self.skipping(x, t).velocity, alpha=self.guidance.scale)
            velocity = added if add is None else torch.where(per_row(add, added).bool(), added, velocity)
        return Prediction(self.path, "velocity", velocity, x, t)
