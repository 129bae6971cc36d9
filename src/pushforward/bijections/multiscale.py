"""Multiscale flows: after each level, half of the channels are finished and the other half continues to the next."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.bijections.bijection import Bijection, inverted
from pushforward.bijections.chain import Chain
from pushforward.bijections.columns import moved
from pushforward.bijections.image_coupling import ImageCoupling
from pushforward.bijections.invertible_conv import InvertibleConv
from pushforward.bijections.squeeze import Squeeze, depth_to_space, space_to_depth
from pushforward.errors import ShapeError, UserError
from pushforward.registry import export


def _example() -> tuple:
    steps = {c: [Squeeze(), InvertibleConv(c), ImageCoupling(c, 3, activation="tanh", classes=2)] for c in (4, 8)}
    levels = [Chain([*steps[4], ImageCoupling(4, None, classes=2)]), Chain(steps[8])]
    return moved(Multiscale(levels)), torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 1])


@export("bijections.Multiscale", example=_example, exactness="exact")
class Multiscale(Bijection):
    """Levels of resolution: after each except the last, half of the channels become noise and only the other half continues.

        (h_(k+1), z_k) = halves of level_k(h_k),    h_1 = x,    log|det| = sum of the levels'

    A level is usually a `Chain` that squeezes. z has the shape of x: the finished channels of a level are concatenated with the noise of
    the levels below, and the squeezing is undone. End a level with `ImageCoupling(channels, hidden=None)` to give the finished half a
    learned prior: its mean and deviation are predicted from the other half, and the noise stays N(0, I).

    Args:
        levels: bijections of images, the finest first.

    Raises:
        UserError: levels is empty.
        ShapeError: a level returns an odd number of channels.

    Example:
        >>> flow = Multiscale([Chain([Squeeze(), ImageCoupling(4, 8)]), Chain([Squeeze(), ImageCoupling(8, 8)])])
        >>> flow(torch.randn(2, 1, 8, 8))[0].shape
        torch.Size([2, 1, 8, 8])

    Source: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803, section 3.6; Kingma and Dhariwal,
    Glow, 2018, arXiv 1807.03039, section 2.
    """

    def __init__(self, levels: Sequence[Bijection]) -> None:
        super().__init__()
        if not levels:
            raise UserError("levels is empty, but a multiscale flow has at least one.")
        self.levels: Any = nn.ModuleList(levels)  # Any: torch types the items of a ModuleList as Module
        self.shrinks = [_shrinks(level) for level in levels]

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._down(0, x, cond)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._up(0, z, cond)

    def _down(self, k: int, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        y, log_abs_det = self.levels[k](x, cond)
        if k + 1 < len(self.levels):
            onward, done = _halves(y)
            onward, more = self._down(k + 1, onward, cond)
            y, log_abs_det = torch.cat((onward, done), dim=1), log_abs_det + more
        return depth_to_space(y, self.shrinks[k]), log_abs_det

    def _up(self, k: int, z: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        z, log_abs_det = space_to_depth(z, self.shrinks[k]), None
        if k + 1 < len(self.levels):
            onward, done = _halves(z)
            onward, log_abs_det = self._up(k + 1, onward, cond)
            z = torch.cat((onward, done), dim=1)
        x, more = inverted(self.levels[k], z, cond)
        return x, more if log_abs_det is None else log_abs_det + more

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        for k, level in enumerate(self.levels):
            level.initialise(x, cond)
            if k + 1 < len(self.levels):
                x = _halves(level(x, cond)[0])[0]

    def reaches(self, touched: Tensor) -> Tensor:
        return self._reached(0, touched)

    def _reached(self, k: int, touched: Tensor) -> Tensor:
        touched = self.levels[k].reaches(touched)
        if k + 1 < len(self.levels):
            onward, done = _halves(touched[None])
            touched = torch.cat((self._reached(k + 1, onward[0]), done[0]))
        return depth_to_space(touched[None], self.shrinks[k])[0]


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[1] % 2:
        raise ShapeError(f"{x.shape[1]} channels leave a level, but half of them are done there; let it squeeze, or use one level.")
    half = x.shape[1] // 2
    return x[:, :half], x[:, half:]


def _shrinks(level: Any) -> int:
    """Return the factor by which a level divides height and width."""
    if isinstance(level, Chain):
        total = 1
        for step in level.steps:
            total *= _shrinks(step)
        return total
    return 2 if isinstance(level, Squeeze) else 1
