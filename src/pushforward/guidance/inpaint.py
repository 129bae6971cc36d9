"""Inpainting: a part of the event is known, and the rest is sampled around it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pushforward.guidance.around import Around
from pushforward.guidance.guidance import Guidance, Guided, cut
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser


@export("guidance.Inpaint", example=lambda: Inpaint(torch.zeros(4, 2), torch.tensor([[1.0, 0.0]]).expand(4, 2), torch.zeros(4, 2)))
@dataclass(frozen=True, eq=False)
class Inpaint(Around):
    """Keep the known part of the data on its path from noise to data, and sample the rest with the model.

        x_t -> mask x_t + (1 - mask) (alpha_t data + sigma_t noise),    velocity -> mask v + (1 - mask) (alpha_t' data + sigma_t' noise)

    In each evaluation the network sees the known part with the noise level of that time. Samplers that solve the ODE end at the known data,
    as its trajectory is integrated with the rest: exactly up to rounding on the linear path, where it is a straight line.

    Args:
        data: the known data (n, *shape), in the model's units (of `preprocess`).
        mask: (n, *shape), or broadcastable to it with n rows: 1 to sample, 0 to keep the data, values in between mix.
        noise: the initial noise of the sampler (n, *shape).
        guidance: further guidance, the scale of classifier-free guidance, or None.

    Source: Lugmayr et al. (RePaint), 2201.09865, eq. 8, without its resampling; here one noise for all times, as an ODE has.
    """

    data: Tensor
    mask: Tensor
    noise: Tensor
    guidance: Guidance | float | None = None

    def __call__(self, denoiser: Denoiser) -> "_Inpainting":
        """Return the guided denoiser."""
        return _Inpainting(self.inside(denoiser), self.data, self.mask, self.noise)

    def rows(self, rows: slice, n: int) -> "Inpaint":
        data, mask, noise = (cut(getattr(self, name), rows, n, name) for name in ("data", "mask", "noise"))
        return replace(super().rows(rows, n), data=data, mask=mask, noise=noise)


class _Inpainting(Guided):
    """A (guided) denoiser whose input and velocity follow the path of the known part."""

    def __init__(self, inner: Denoiser | Guided, data: Tensor, mask: Tensor, noise: Tensor) -> None:
        self.inner, self.data, self.mask, self.noise, self.path = inner, data, mask, noise, inner.path

    @property
    def args(self) -> tuple[Any, ...]:
        return (*self.inner.args, self.data, self.mask, self.noise)

    def bind(self, *args: Any) -> "_Inpainting":
        return _Inpainting(self.inner.bind(*args[:-3]), *args[-3:])

    def plain(self, x: Tensor, t: Tensor) -> Tensor:
        data, noise, mask = (one.to(x) for one in (self.data, self.noise, self.mask))
        x = torch.lerp(self.path.mix(data, noise, t), x, mask)
        return torch.lerp(self.path.target("velocity", data, noise, t), self.inner(x, t).velocity, mask)

    def around(self, plain: Tensor, x: Tensor, t: Tensor) -> Prediction:
        return Prediction(self.path, "velocity", plain, x, t)
