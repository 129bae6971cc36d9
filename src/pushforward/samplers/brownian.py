"""The noise of stochastic samplers: drawn independently at each step, or the increments of one Brownian path that the seed determines.

The path is a tree of Brownian bridges over t in [0, 1]: a midpoint is the mean of its ends plus noise seeded by (seed, position in the
tree). So W(t) is a function of the seed and t, independent of the other times at which it is evaluated, and a sampler with more steps
follows the same path.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pushforward import _random

Noise = Literal["fresh", "brownian"]
NOISES: tuple[Noise, ...] = ("fresh", "brownian")
DEPTH = 20  # halvings: the smallest cell is 1e-6 of the time axis; 20 states are stored


def noise_source(noise: Noise, x: Tensor, generator: _random.Generators) -> Callable[[float, float], Tensor]:
    """Return the function (t, s) -> standard normal noise of x's shape for a step from t to s."""
    if noise == "fresh":
        return lambda t, s: _random.normal(x.shape, generator, x.device, x.dtype)
    path = BrownianPath(x, generator)
    return lambda t, s: (path(t) - path(s)) / math.sqrt(abs(t - s))


class BrownianPath:
    """W(t) on [0, 1] with W(0) = 0, of x's shape, dtype and device; one seed is drawn from each generator.

    Within one cell of 1e-6 all times share one draw, so that increments over less than that are not independent.

    Source: Li et al., Scalable gradients for stochastic differential equations, 2001.01328, section 4 (the virtual Brownian tree).
    """

    def __init__(self, x: Tensor, generator: _random.Generators) -> None:
        self.shape, self.device, self.dtype = x.shape, x.device, x.dtype
        self.owners = [one for _, one in _random.blocks(generator, len(x))]
        self.seeds = [int(torch.randint(2**62, (), generator=one, device=one.device if one is not None else "cpu")) for one in self.owners]
        # Cells from the full axis down to the cell of the last time: (place, low, high, W(low), W(high)). Times are ordered, so
        # the next one shares most of them.
        self.cells = [(1, 0.0, 1.0, torch.zeros_like(x), self._normal(0))]

    def __call__(self, t: float) -> Tensor:
        """Return W(t) (n, *shape)."""
        while not self.cells[-1][1] <= t <= self.cells[-1][2] and len(self.cells) > 1:
            self.cells.pop()
        while True:
            place, low, high, at_low, at_high = self.cells[-1]
            if t in (low, high):
                return at_low if t == low else at_high
            share, size = (t - low) / (high - low), high - low
            if len(self.cells) > DEPTH:
                return torch.lerp(at_low, at_high, share) + math.sqrt(share * (1 - share) * size) * self._normal(place)
            middle = (low + high) / 2
            at_middle = torch.lerp(at_low, at_high, 0.5) + 0.5 * math.sqrt(size) * self._normal(place)
            lower = (2 * place, low, middle, at_low, at_middle)
            self.cells.append(lower if t <= middle else (2 * place + 1, middle, high, at_middle, at_high))

    def _normal(self, place: int) -> Tensor:
        device = self.device if self.device.type != "mps" else "cpu"
        pairs = zip(self.owners, self.seeds, strict=True)
        generators = [_random.seeded(owner, _mixed(seed, place), device) for owner, seed in pairs]
        return _random.normal(self.shape, generators, self.device, self.dtype)


def _mixed(seed: int, place: int) -> int:
    """Return 63 bits that depend on every bit of both numbers: the CPU generator only uses the lower 32 (SplitMix64's finaliser)."""
    z = (seed + (place + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return (z ^ (z >> 31)) >> 1
