"""Transforms of torch.distributions as bijections."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import transforms

from pushforward._precision import wide
from pushforward.bijections.bijection import Bijection
from pushforward.errors import NotInvertibleError
from pushforward.registry import export


def _example() -> tuple:
    composed = transforms.ComposeTransform([transforms.AffineTransform(1.0, 0.5), transforms.SoftplusTransform()])
    return Transform(composed), 1 + torch.rand(4, 3), None


@export("bijections.Transform", example=_example, exactness="exact")
class Transform(Bijection):
    """A transform of torch.distributions as a bijection: its log-determinants are summed over the event.

    The tensors of the transform are not registered: `.to()` does not move them, and they are not parameters of the bijection.

    Args:
        transform: one that is bijective and keeps the shape, such as AffineTransform or SoftplusTransform.

    Raises:
        NotInvertibleError: the transform is not bijective.

    Example:
        >>> from torch.distributions.transforms import ExpTransform
        >>> Transform(ExpTransform())(torch.zeros(2, 3))[1]
        tensor([0., 0.])
    """

    def __init__(self, transform: transforms.Transform) -> None:
        super().__init__()
        if not transform.bijective:
            raise NotInvertibleError(
                f"{type(transform).__name__} is not bijective, so it has no inverse; use one whose `bijective` is True."
            )
        self.transform = transform

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._through(self.transform, x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        return self._through(self.transform.inv, z)

    def _through(self, transform: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = transform(x)
        log_abs_det = transform.log_abs_det_jacobian(x, y)
        log_abs_det = log_abs_det.to(wide(x))
        return y, log_abs_det.flatten(1).sum(1) if log_abs_det.ndim > 1 else log_abs_det

    def extra_repr(self) -> str:
        return f"{self.transform}"
