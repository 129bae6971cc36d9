"""What an autoencoder is made of besides its network: the shape of latents, the KL term, a perceptual distance, batches of any data."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward._precision import wide
from pushforward.errors import ShapeError, UserError
from pushforward.families.checks import device_of
from pushforward.nn.autoencoder_kl import AutoencoderKL

Perceptual = Callable[[Tensor, Tensor], Tensor]


def latent_shape(net: AutoencoderKL, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the latents of images.

    Raises:
        ShapeError: the images do not fit the network.
    """
    if len(shape) != 3 or shape[0] != net.channels:
        channels = net.channels if len(shape) == 3 else "channels"
        raise ShapeError(f"shape is {tuple(shape)}, but the autoencoder is for images ({channels}, height, width).")
    if any(side % net.factor for side in shape[1:]):
        raise ShapeError(
            f"shape is {tuple(shape)}, but {len(net.widths)} widths need sides divisible by {net.factor}; give fewer widths, or resize or "
            "pad the images."
        )
    return (net.latent_channels, shape[1] // net.factor, shape[2] // net.factor)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) | N(0, I)) (n,) in nats, in float32 or wider."""
    mean, log_variance = mean.to(wide(mean)), log_variance.to(wide(mean))
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)


class Frozen:
    """A perceptual distance apart from a model's weights; copies of the model share it."""

    def __init__(self, distance: Perceptual) -> None:
        self.distance: Any = distance
        if isinstance(distance, nn.Module):
            self.distance = copy.deepcopy(distance).eval().requires_grad_(False)

    def __deepcopy__(self, memo: Any) -> "Frozen":
        return self

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean distance."""
        if isinstance(self.distance, nn.Module) and device_of(self.distance) != x.device:
            self.distance.to(x.device)
        distance = self.distance(x, y)
        if not isinstance(distance, Tensor) or tuple(distance.shape) not in ((), (len(x),)):
            what = f"of shape {tuple(distance.shape)}" if isinstance(distance, Tensor) else type(distance).__name__
            raise UserError(
                f"perceptual returned a value {what} for {len(x)} pairs of images, but it must be a tensor (n,) or a scalar; for a "
                "function that returns features give nn.FeatureDistance(features)."
            )
        return distance.mean()


def batches_of(data: Any, size: int) -> Iterator[Tensor]:
    """Yield batches of the images of a tensor, a data set, or an iterable of images or batches, alone or first in a tuple."""
    if isinstance(data, Tensor):
        yield from data.split(size)
        return
    if hasattr(data, "batch") and hasattr(data, "__len__"):
        for start in range(0, len(data), size):
            yield data.batch(range(start, min(start + size, len(data))))[0]
        return
    rows: list[Tensor] = []
    for one in data:
        x = one[0] if isinstance(one, tuple | list) else one
        if x.ndim == 4:
            yield x
            continue
        rows.append(x)
        if len(rows) == size:
            yield torch.stack(rows)
            rows = []
    if rows:
        yield torch.stack(rows)
