"""A scale and a shift for each feature or channel: learned, initialised from data, or from batch statistics."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward._precision import wide
from pushforward.bijections.columns import Columns, VectorBijection, moved
from pushforward.bijections.pixels import PixelAffine
from pushforward.errors import ShapeError
from pushforward.registry import export


class _Diagonal(VectorBijection):
    """Maps that act on each feature separately."""

    def reaches(self, touched: Tensor) -> Tensor:
        return touched


@export("bijections.Scale", example=lambda: (moved(Scale(3)), torch.randn(4, 3), None), exactness="exact")
class Scale(_Diagonal):
    """Multiply each feature by a learned positive number, initially 1.

        z = x exp(s),    log|det| = sum s

    Args:
        features: length of the vectors.

    Source: Dinh, Krueger and Bengio, NICE, 2014, arXiv 1410.8516, section 3.3.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.log_scale = nn.Parameter(torch.zeros(features))

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        s = -self.log_scale if inverse else self.log_scale
        return x.having(*(part * scale for part, scale in x.zipped(s.exp()))), s.sum(dtype=wide(s))


@export("bijections.ActNorm", example=lambda: (moved(ActNorm(3)), torch.randn(4, 3), None), exactness="exact")
class ActNorm(_Diagonal):
    """Scale and shift each feature by learned numbers, which `initialise` sets such that the data are standardised.

        z = x exp(s) + b,    log|det| = sum s

    Until `initialise` has seen data it is the identity; a feature that is constant there keeps its scale.

    Args:
        features: length of the vectors.

    Raises:
        ShapeError: the data for `initialise` has fewer than two rows.

    Example:
        >>> layer, x = ActNorm(2), torch.tensor([[0.0, 5.0], [2.0, 5.0]])
        >>> layer.initialise(x)
        >>> layer(x)[0].detach()
        tensor([[-0.7071,  0.0000],
                [ 0.7071,  0.0000]])

    Source: Kingma and Dhariwal, Glow, 2018, arXiv 1807.03039, section 3.1.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Initialise from data x (n, features), n at least 2: each feature gets mean 0 and standard deviation 1."""
        mean, std = _moments(x.flatten(1), self.features, x.shape)
        self.log_scale.copy_(-std.log())
        self.shift.copy_(-mean / std)

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        return _affine(x, self.log_scale, self.shift, inverse)


@export("bijections.ImageActNorm", example=lambda: (moved(ImageActNorm(3)), torch.randn(4, 3, 2, 2), None), exactness="exact")
class ImageActNorm(PixelAffine):
    """Scale and shift each channel of an image by learned numbers, which `initialise` sets such that the data are standardised.

        z_cij = x_cij exp(s_c) + b_c,    log|det| = height width sum s

    Until `initialise` has seen data it is the identity; a channel that is constant there keeps its scale.

    Args:
        channels: channels of an image.

    Raises:
        ShapeError: x has another number of channels; the data for `initialise` has fewer than two pixels.

    Example:
        >>> layer = ImageActNorm(3)
        >>> layer.initialise(5 + 2 * torch.randn(10, 3, 4, 4))
        >>> bool(layer(5 * torch.ones(1, 3, 4, 4))[0].abs().max() < 0.5)
        True

    Source: Kingma and Dhariwal, Glow, 2018, arXiv 1807.03039, section 3.1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Initialise from images x (n, channels, height, width): each channel gets mean 0 and standard deviation 1 over all pixels."""
        mean, std = _moments(x.movedim(1, -1).flatten(0, -2), self.channels, x.shape)
        self.log_scale.copy_(-std.log())
        self.shift.copy_(-mean / std)

    def affine(self) -> tuple[Tensor, Tensor, Tensor]:
        dtype = wide(self.log_scale)
        s = self.log_scale.to(dtype)
        return s.exp().diag(), self.shift.to(dtype), s.sum()

    def reaches(self, touched: Tensor) -> Tensor:
        return touched


@export("bijections.BatchNorm", example=lambda: (moved(BatchNorm(3)).eval(), torch.randn(4, 3), None), exactness="exact")
class BatchNorm(_Diagonal):
    """Standardise each feature by the batch's moments in training and by running moments otherwise, then scale and shift it.

        z = (x - mean) / sqrt(var + eps) exp(s) + b,    log|det| = sum s - log(var + eps) / 2

    In training mode forward depends on the batch (at least two rows) and updates the running moments; inverse always uses the running
    ones. So it is a bijection of single rows only in eval mode. `initialise` sets the running moments.

    Args:
        features: length of the vectors.
        momentum: weight of the batch in the running moments.
        eps: added to variances.

    Raises:
        ShapeError: a batch of fewer than two rows in training mode.

    Source: Papamakarios, Pavlakou and Murray, Masked autoregressive flow, 2017, arXiv 1705.07057, appendix B.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(features)
        self.momentum, self.eps = momentum, eps
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Any = None) -> None:
        """Set the running moments to those of data x (n, features), n at least 2."""
        mean, std = _moments(x.flatten(1), self.features, x.shape)
        self.mean.copy_(mean)
        self.var.copy_(std.square())

    def map_columns(self, x: Columns, cond: Any, inverse: bool) -> tuple[Columns, Tensor | None]:
        mean, var = self.mean, self.var
        if self.training and not inverse:
            whole = x.whole()
            if whole.shape[1] < 2:
                raise ShapeError(
                    f"a batch of {whole.shape[1]} has no moments; give BatchNorm at least two rows in training, or use .eval()."
                )
            var, mean = torch.var_mean(whole, 1, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
                self.var.lerp_(var.to(self.var.dtype), self.momentum)
        s = self.log_scale - 0.5 * (var + self.eps).log()
        return _affine(x, s, self.shift - mean * s.exp(), inverse)


def _affine(x: Columns, s: Tensor, b: Tensor, inverse: bool) -> tuple[Columns, Tensor]:
    total = s.sum(dtype=wide(s))
    if inverse:
        return x.having(*((part - shift) * scale for part, shift, scale in x.zipped(b, (-s).exp()))), -total
    return x.having(*(torch.addcmul(shift, part, scale) for part, shift, scale in x.zipped(b, s.exp()))), total


def _moments(rows: Tensor, features: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    rows = rows.to(wide(rows))
    if len(rows) < 2 or rows.shape[1] != features:
        raise ShapeError(f"x has shape {tuple(shape)}, but starting from data needs at least two rows of {features} features.")
    std = rows.std(0)
    return rows.mean(0), torch.where(std > 0, std, 1.0)
