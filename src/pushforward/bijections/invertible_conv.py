"""The invertible 1x1 convolution: a learned linear map of the channels, the same at each pixel."""

from typing import Literal

import torch
from torch import Tensor, nn

from pushforward._precision import wide
from pushforward.bijections.columns import moved
from pushforward.bijections.mixing import reflections_of
from pushforward.bijections.pixels import PixelAffine
from pushforward.errors import UserError
from pushforward.registry import export

Parametrisation = Literal["plu", "free", "householder"]


@export("bijections.InvertibleConv", example=lambda: (moved(InvertibleConv(4)), torch.randn(4, 4, 2, 3), None), exactness="exact")
class InvertibleConv(PixelAffine):
    """Multiply the channels of an image by a learned matrix, the same at each pixel; it is initialised as a random rotation.

        z_ij = W x_ij,    log|det| = height width log|det W|
        "plu": W = P L (U + diag(sign exp(s))), P a fixed permutation, L and U triangular;    log|det W| = sum s
        "free": W itself is learned;    "householder": W = H_1 ... H_c, a product of reflections, log|det W| = 0

    Args:
        channels: channels of an image, c.
        parametrisation: "plu" (never singular, no determinant to compute), "free", or "householder" (always orthogonal).

    Raises:
        UserError: channels < 1, an unknown parametrisation, or a free matrix that has become singular. This is checked on the CPU, and on
            other devices only without gradients, as the check synchronises the device; the loss is infinite then.
        ShapeError: x has another number of channels.

    Example:
        >>> layer, x = InvertibleConv(3), torch.randn(2, 3, 4, 4)
        >>> torch.allclose(layer.inverse(layer(x)[0])[0], x, atol=1e-5)
        True

    Source: Kingma and Dhariwal, Glow, 2018, arXiv 1807.03039, section 3.2, equations 9 to 11; Tomczak and Welling, 1611.09630.
    """

    order: Tensor
    sign: Tensor

    def __init__(self, channels: int, parametrisation: Parametrisation = "plu") -> None:
        super().__init__(channels)
        if parametrisation not in ("plu", "free", "householder"):
            raise UserError(f"parametrisation is {parametrisation!r}, but it is 'plu', 'free' or 'householder'.")
        self.parametrisation = parametrisation
        if parametrisation == "householder":
            self.vectors = nn.Parameter(torch.randn(channels, channels) / channels**0.5)  # only the entries below the diagonal are used
            return
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        if parametrisation == "free":
            self.weight = nn.Parameter(rotation)
            return
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("order", permutation.argmax(1))  # row i of W is row order[i] of L U
        self.register_buffer("sign", upper.diagonal().sign())
        self.off_diagonal = nn.Parameter(lower.tril(-1) + upper.triu(1))  # L below the diagonal, U above it
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    def affine(self) -> tuple[Tensor, Tensor, Tensor]:
        matrix, log_abs_det = getattr(self, f"_{self.parametrisation}")()
        return matrix, matrix.new_zeros(self.channels), log_abs_det

    def _plu(self) -> tuple[Tensor, Tensor]:
        off, s = (one.to(wide(one)) for one in (self.off_diagonal, self.log_diagonal))
        lower = off.tril(-1) + torch.eye(self.channels, dtype=off.dtype, device=off.device)
        upper = off.triu(1) + torch.diag(self.sign * s.exp())
        return (lower @ upper)[self.order], s.sum()

    def _free(self) -> tuple[Tensor, Tensor]:
        weight = self.weight.to(wide(self.weight))
        log_abs_det = torch.linalg.slogdet(weight)[1]
        look = not torch.compiler.is_compiling() and (weight.device.type == "cpu" or not torch.is_grad_enabled())
        if look and not bool(log_abs_det.isfinite()):
            raise UserError(
                f"the {self.channels} x {self.channels} matrix of an InvertibleConv is singular (log|det| is {log_abs_det.item()}), so it "
                "has no inverse; use parametrisation='plu', which cannot become so."
            )
        return weight, log_abs_det

    def _householder(self) -> tuple[Tensor, Tensor]:
        matrix = reflections_of(self.vectors.to(wide(self.vectors)))
        return matrix, matrix.new_zeros(())

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.parametrisation!r}"
