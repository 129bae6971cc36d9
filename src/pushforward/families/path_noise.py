"""The base of a model whose path has a learned schedule."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pushforward import _random
from pushforward._precision import wide
from pushforward.bases import Gaussian
from pushforward.paths.path import Path
from pushforward.samplers.grids import clock


def ends_of(path: Path, interval: tuple[float, float]) -> Tensor:
    """Return sigma (2,) at both ends of an interval, in float64, with the path's current parameters."""
    return path.sigma(clock(path, interval))


def noise_of(path: Path, shape: Sequence[int], interval: tuple[float, float]) -> Gaussian:
    """Return the base N(0, sigma(t_max)²); if the path is a Module, sigma is evaluated at each use."""
    if isinstance(path, nn.Module):
        return PathNoise(path, shape, interval)
    return Gaussian(shape, float(ends_of(path, interval)[1]))


class PathNoise(Gaussian):
    """N(0, sigma²) with the current sigma of a path with parameters at its interval's end; log_prob is differentiable in them."""

    def __init__(self, path: Path, shape: Sequence[int], interval: tuple[float, float]) -> None:
        nn.Module.__init__(self)
        self.shape, self.interval, self._path = tuple(shape), interval, (path,)  # in a tuple: the model registers the parameters
        self.register_buffer("like", torch.empty(0), persistent=False)

    @property
    def std(self) -> float:  # type: ignore[override]
        return float(self._std.detach())

    @property
    def _std(self) -> Tensor:
        return ends_of(self._path[0], self.interval)[1]

    def sample(self, n: int, generator: _random.Generators = None) -> Tensor:
        return _random.normal((n, *self.shape), generator, self.like.device, self.like.dtype) * self.std

    def log_prob(self, z: Tensor) -> Tensor:
        scaled = z.to(wide(z)).flatten(1)
        std = self._std.to(scaled)
        scaled = scaled / std
        return -0.5 * scaled.square().sum(1) - scaled.shape[1] * (math.log(2 * math.pi) / 2 + std.log())
