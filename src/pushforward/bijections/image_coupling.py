"""Couplings of images: one part of the channels or pixels parametrises a transform of the other."""

from typing import Any, Literal

import torch
from torch import Tensor

from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection
from pushforward.bijections.columns import moved
from pushforward.bijections.elementwise import Additive, Affine, Elementwise, Spline
from pushforward.errors import ShapeError, UserError
from pushforward.nn.activation import Activation
from pushforward.nn.conv import ConvNet
from pushforward.registry import export

Change = Literal["affine", "additive", "spline"]
Mask = Literal["channel", "checkerboard"]


def _example() -> tuple:
    return moved(ImageCoupling(3, 4, activation="tanh", classes=3)), torch.randn(4, 3, 2, 3), torch.tensor([0, 2, 1, 0])


@export("bijections.ImageCoupling", example=_example, exactness="exact")
class ImageCoupling(Bijection):
    """Keep one part of an image and transform the other elementwise with parameters that a convolutional network predicts from it.

        z_a = x_a,    z_b = x_b exp(s(x_a, cond)) + t(x_a, cond),    |s| < bound,    log|det| = sum s    ("affine")

    "additive" only shifts; "spline" applies a rational-quadratic spline on [-bound, bound]. The network's last convolution starts at zero,
    so that the coupling starts as the identity. With `hidden=None` the network is a single convolution, and the coupling is Glow's learned
    prior: mean and deviation of the half that is finished at a level of `Multiscale` are predicted from the half that continues.

    Args:
        channels: channels of an image; at least 2 for mask "channel".
        hidden: channels of the network's two hidden layers, or None for a single convolution.
        change: "affine", "additive" or "spline".
        mask: "channel" keeps channels // 2 channels and transforms the rest, "checkerboard" keeps every other pixel.
        swap: transform the part that is kept otherwise; alternate it in a chain of couplings only.
        bound: bound of the log-scales (None: 2), or of the interval on which splines act (None: 5).
        bins: pieces of each spline.
        activation: "silu", "tanh", "relu", "elu" or "softplus".
        classes: number of labels that `cond` may be, or None.
        cond_features: length of the vectors that `cond` may be, or None.
        cond_channels: channels of `cond` if it is images of x's height and width, or None; images k times as high and wide have k² times
            the channels at x's resolution, and those of a fraction of x's sides are repeated.

    Raises:
        UserError: too few channels, an unknown change or mask, a bound that is not positive, or invalid network settings.
        ShapeError: x has another number of channels.
        ConditionError: a condition that the network was not built for, or a vector that is missing.

    Example:
        >>> z, log_abs_det = ImageCoupling(4, 16)(torch.randn(2, 4, 8, 8))
        >>> z.shape, log_abs_det.shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2]))

    Source: Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP, 2016, arXiv 1605.08803, equations 7 to 9 and figure 3;
    Kingma and Dhariwal, Glow, 2018, arXiv 1807.03039, section 3.3.
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = 128,
        *,
        change: Change = "affine",
        mask: Mask = "channel",
        swap: bool = False,
        bound: float | None = None,
        bins: int = 8,
        activation: Activation = "relu",
        classes: int | None = None,
        cond_features: int | None = None,
        cond_channels: int | None = None,
    ) -> None:
        super().__init__()
        if mask not in ("channel", "checkerboard"):
            raise UserError(f"mask is {mask!r}, but it is 'channel' or 'checkerboard'.")
        least = 2 if mask == "channel" else 1
        if channels < least:
            raise UserError(f"channels is {channels}, but a coupling of mask {mask!r} needs at least {least}; squeeze first.")
        self.channels, self.mask, self.swap = channels, mask, swap
        self.elementwise = _elementwise(change, bound, bins)
        self.first = channels // 2
        kept, changed = (self.first, channels - self.first) if mask == "channel" else (channels, channels)
        if swap and mask == "channel":
            kept, changed = changed, kept
        self.net = ConvNet(kept, self.elementwise.parameters * changed, hidden, activation, classes, cond_features, cond_channels)

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return self._through(x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Any]:
        return self._through(z, cond, inverse=True)

    def _through(self, x: Tensor, cond: Any, inverse: bool) -> tuple[Tensor, Tensor | None]:
        kept, changed = self.split(x)
        changed, log_abs_det = self.transform(changed, self.params(kept, cond), inverse)
        return self.merge(kept, changed), log_abs_det

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kept part and the part to transform: halves of the channels, or the full image twice for a checkerboard."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ShapeError(f"x has shape {tuple(x.shape)}, but this coupling needs images (n, {self.channels}, height, width).")
        if self.mask == "checkerboard":
            return x, x
        first, second = x.narrow(1, 0, self.first), x.narrow(1, self.first, self.channels - self.first)
        return (second, first) if self.swap else (first, second)

    def params(self, kept: Tensor, cond: Any) -> Tensor:
        """Return the raw parameters (n, parameters * transformed channels, height, width) that the network predicts from the kept part."""
        if self.mask == "checkerboard":
            kept = kept * ~self._changes(kept)
        raw: Tensor = self.net(kept, cond)
        return raw if raw.dtype == kept.dtype else raw.to(kept.dtype)

    def transform(self, changed: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor | None]:
        """Return the transformed part (or, if inverse, the original one), and its log_abs_det (n,) or None for 0."""
        each = params.chunk(self.elementwise.parameters, 1)
        y, log_slopes = self.elementwise(changed, torch.stack(each) if len(each) > 2 else each, inverse)
        if self.mask == "checkerboard":
            place = self._changes(y)
            y, log_slopes = y * place, None if log_slopes is None else log_slopes * place
        return y, None if log_slopes is None else log_slopes.sum((1, 2, 3), dtype=wide(log_slopes))

    def merge(self, kept: Tensor, changed: Tensor) -> Tensor:
        """Return both parts merged into one image."""
        if self.mask == "checkerboard":
            return torch.where(self._changes(kept), changed, kept)
        return torch.cat((changed, kept) if self.swap else (kept, changed), dim=1)

    def reaches(self, touched: Tensor) -> Tensor:
        if self.mask == "checkerboard":
            return touched | self._changes(touched)
        changed = torch.arange(self.channels, device=touched.device) < self.first
        return touched | (changed if self.swap else ~changed)[:, None, None]

    def _changes(self, x: Tensor) -> Tensor:
        """Return which pixels (h, w) are transformed: those with odd row + column, or even with swap."""
        rows, columns = (torch.arange(side, device=x.device) for side in x.shape[-2:])
        return (rows[:, None] + columns) % 2 == int(not self.swap)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.elementwise}, mask={self.mask!r}, swap={self.swap}"


def _elementwise(change: Change, bound: float | None, bins: int) -> Elementwise:
    if change == "additive":
        return Additive()
    if change == "affine":
        return Affine(2.0 if bound is None else bound)
    if change == "spline":
        return Spline(bins, 5.0 if bound is None else bound)
    raise UserError(f"change is {change!r}, but it is 'affine', 'additive' or 'spline'.")
