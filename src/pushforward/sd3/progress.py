"""Progress during generation: completed evaluations and the expected clean latents, optionally as images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import PIL.Image
import torch
from torch import Tensor

from pushforward.guidance.around import Around
from pushforward.guidance.guidance import Guidance, Guided
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser
from pushforward.sd3.images import finished, to_pil
from pushforward.sd3.latent_preview import Preview as LinearPreview
from pushforward.sd3.latent_preview import cached_preview, least_squares

Preview = Literal["linear", "decoded"]


@export("sd3.Progress")
@dataclass(frozen=True, eq=False)
class Progress:
    """The argument of `callback` in `StableDiffusion3.sample`, after each evaluation of the guided network.

    Args:
        done: completed evaluations of this chunk of the batch.
        total: total number of evaluations, or None for an adaptive sampler.
        t: time of the evaluation, from 1 (noise) to 0; the largest in the batch.
        latents: the expected clean latents (n, 16, height, width).
        pictures: converter from latents to images.
    """

    done: int
    total: int | None
    t: float
    latents: Tensor
    pictures: Callable[[Tensor, Preview], Tensor]

    def images(self, preview: Preview = "linear") -> list[PIL.Image.Image]:
        """Return images of the expected latents: "linear" at 1/8 of the size and almost no cost, "decoded" by the autoencoder."""
        return to_pil(self.pictures(self.latents, preview))


@dataclass(frozen=True, eq=False)
class Watch(Around):
    """Guidance that changes nothing and passes each prediction to `callback`."""

    callback: Callable[[Progress], Any]
    total: int | None
    pictures: Callable[[Tensor, Preview], Tensor]
    guidance: Guidance | float | None = None

    def __call__(self, denoiser: Denoiser) -> "_Watched":
        return _Watched(self, self.inside(denoiser), [0])


class _Watched(Guided):
    def __init__(self, watch: Watch, inner: Denoiser | Guided, done: list[int]) -> None:
        self.watch, self.inner, self.done, self.path = watch, inner, done, inner.path

    @property
    def args(self) -> tuple[Any, ...]:
        return self.inner.args

    def bind(self, *args: Any) -> "_Watched":
        return _Watched(self.watch, self.inner.bind(*args), self.done)

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        prediction = self.inner(x, t)
        self.done[0] += 1
        self.watch.callback(Progress(self.done[0], self.watch.total, float(t.max()), prediction.data, self.watch.pictures))
        return prediction


class Pictures:
    """Converts latents to images: decoded, or by a linear `Preview`.

    Unless one is given as `preview`, it is fitted once to the decoder's output for latents that are constant over 8 by 8 squares.

    Args:
        decode: maps latents (n, channels, height, width) to images (n, 3, factor height, factor width) in [-1, 1].
        channels: channels of a latent.
        factor: pixels per latent position, along each side.
    """

    cached = staticmethod(cached_preview)

    def __init__(self, decode: Callable[[Tensor], Tensor], channels: int, factor: int) -> None:
        self.decode, self.channels, self.factor = decode, channels, factor
        self.preview: LinearPreview | None = None

    def __call__(self, latents: Tensor, preview: Preview) -> Tensor:
        """Return images (n, 3, ...) in [0, 1]."""
        if preview == "decoded":
            return finished(self.decode(latents))
        if self.preview is None:
            self.preview = self._fitted()
        return self.preview(latents)

    @torch.no_grad()
    def _fitted(self) -> LinearPreview:
        squares = torch.randn(1, self.channels, 8, 8, generator=torch.Generator().manual_seed(0))
        latents = squares.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return least_squares([(latents, torch.nn.functional.avg_pool2d(self.decode(latents).float().cpu(), self.factor))])
