"""Progress during generation: completed evaluations and the expected clean latents, optionally as images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import PIL.Image
import torch
from torch import Tensor

from pushforward.errors import ShapeError, UserError
from pushforward.families.checks import row_not_finite
from pushforward.guidance.around import Around
from pushforward.guidance.guidance import Guidance, Guided
from pushforward.paths.prediction import Prediction
from pushforward.registry import export
from pushforward.samplers.denoiser import Denoiser
from pushforward.samplers.sampler import Sampler
from pushforward.sd3.images import finished, to_pil
from pushforward.sd3.latent_preview import Preview as LinearPreview
from pushforward.sd3.latent_preview import cached_preview, least_squares

Preview = Literal["linear", "decoded"]


@export("sd3.Progress")
@dataclass(frozen=True, eq=False)
class Progress:
    """The argument of `callback` in `StableDiffusion3.sample`, after each evaluation of the guided network.

    A callback that returns a tensor replaces the expected clean latents by it, and the noise that the sampler uses follows from them;
    whatever else it returns is ignored. Changes of `latents` in place have no effect.

    Args:
        done: completed evaluations of this chunk of the batch.
        total: total number of evaluations, or None for an adaptive sampler.
        t: time of the evaluation, from 1 (noise) to 0; the largest in the batch.
        latents: the expected clean latents (n, 16, height, width); in an adaptive sampler those of the images that are not finished.
        pictures: converter from latents to images.
        rows: the images of this chunk, of all that are generated.
        n: number of images in all chunks.
    """

    done: int
    total: int | None
    t: float
    latents: Tensor
    pictures: Callable[[Tensor, Preview], Tensor]
    rows: range = range(1)
    n: int = 1
    _stopped: list[bool] = field(default_factory=list, repr=False)

    def images(self, preview: Preview = "linear") -> list[PIL.Image.Image]:
        """Return images of the expected latents: "linear" at 1/8 of the size and almost no cost, "decoded" by the autoencoder."""
        return to_pil(self.pictures(self.latents, preview))

    def stop(self) -> None:
        """End the generation after this callback: `sample` returns the images expected so far, without those of chunks to come."""
        self._stopped.append(True)


class Stopped(Exception):
    """Raised through a sampler when a callback has called `Progress.stop`, with the expected latents of all images of the chunk."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents = latents


@dataclass(frozen=True, eq=False)
class Watch(Around):
    """Guidance that passes each prediction to `callback`, which may replace its data or stop."""

    callback: Callable[[Progress], Any]
    total: int | None
    pictures: Callable[[Tensor, Preview], Tensor]
    images: range
    n: int
    guidance: Guidance | float | None = None

    def __call__(self, denoiser: Denoiser) -> "_Watched":
        return _Watched(self, self.inside(denoiser), [0], {}, torch.arange(len(self.images)))


class _Watched(Guided):
    """A denoiser whose predictions are watched; `index` (n,) are the places of its samples in the chunk, `latest` their latents."""

    def __init__(self, watch: Watch, inner: Denoiser | Guided, done: list[int], latest: dict[int, Tensor], index: Tensor) -> None:
        self.watch, self.inner, self.done, self.latest, self.index, self.path = watch, inner, done, latest, index, inner.path

    @property
    def args(self) -> tuple[Any, ...]:
        return (*self.inner.args, self.index)

    def bind(self, *args: Any) -> "_Watched":
        return _Watched(self.watch, self.inner.bind(*args[:-1]), self.done, self.latest, args[-1])

    def __call__(self, x: Tensor, t: Tensor) -> Prediction:
        prediction, watch = self.inner(x, t), self.watch
        latents, stopped = prediction.data, list[bool]()
        self.done[0] += 1
        progress = Progress(self.done[0], watch.total, float(t.max()), latents, watch.pictures, watch.images, watch.n, stopped)
        changed = watch.callback(progress)
        if isinstance(changed, Tensor):
            latents = _checked(changed, latents)
            prediction = prediction.with_data(lambda data: latents.to(data))
        self.latest.update(zip(self.index.tolist(), latents, strict=True))
        if stopped:
            raise Stopped(torch.stack([self.latest[k] for k in sorted(self.latest)]))
        return prediction


def _checked(changed: Tensor, latents: Tensor) -> Tensor:
    """Return the latents that a callback returns, on the device.

    Raises:
        ShapeError: they have another shape.
        UserError: they have NaN or infinity.
    """
    if changed.shape != latents.shape:
        raise ShapeError(
            f"the callback returned a tensor of shape {tuple(changed.shape)}, but latents are {tuple(latents.shape)}; "
            "return progress.latents, changed, or None."
        )
    if row_not_finite(changed) is not None:
        raise UserError("the callback returned latents with NaN or infinity; check how they are computed.")
    return changed.detach().to(latents)


def solved(sampler: Sampler, denoiser: Any, x: Tensor, start: float, generators: Any) -> tuple[Tensor, bool]:
    """Return the latents at time 0, and whether a callback has stopped before; then they are those expected so far."""
    try:
        made: Tensor = sampler(denoiser, x, start, 0.0, generators)
        return made, False
    except Stopped as stop:
        return stop.latents, True


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
