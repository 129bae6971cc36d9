"""The distance of images by features of them, such as the layers of a classifier: a perceptual loss."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward._checks import shown
from pushforward.errors import UserError
from pushforward.registry import export

EPS = 1e-10


def _example() -> tuple:
    return FeatureDistance(nn.Conv2d(3, 4, 3)), (torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))


@export("nn.FeatureDistance", example=_example)
class FeatureDistance(nn.Module):
    """Compare two batches of images by their features, each divided by its length at every position.

        d(x, y) = sum over layers of mean over positions of |f(x) / |f(x)| - f(y) / |f(y)||^2

    Gradients reach y only, the reconstruction; x is data.

    Args:
        features: maps images (n, channels, height, width) in [-1, 1] to features (n, channels, ...), or to a list of them, one per layer; a
            module or any differentiable function. Change range and channels inside it where it needs others.

    Raises:
        UserError: it returns something else.

    Example:
        >>> FeatureDistance(nn.Conv2d(3, 4, 3))(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
        tensor([0., 0.], grad_fn=<AddBackward0>)

    Source: Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018, arXiv 1801.03924, equation 1, with
    all weights 1.
    """

    def __init__(self, features: Callable[[Tensor], Tensor | Sequence[Tensor]]) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return distances (n,) of images x and y (n, channels, height, width) in [-1, 1]."""
        with torch.no_grad():
            known = [one.detach() for one in _layers(self.features(x), len(x))]
        made = _layers(self.features(y), len(y))
        distance = y.new_zeros(len(y))
        for one, other in zip(known, made, strict=True):
            squares = (_unit(one) - _unit(other)).square().sum(1)
            distance = distance + squares.flatten(1).mean(1) if squares.ndim > 1 else distance + squares
        return distance


def _layers(features: Any, n: int) -> list[Tensor]:
    found = [features] if isinstance(features, Tensor) else list(features) if isinstance(features, list | tuple) else []
    wrong = [one for one in found if not isinstance(one, Tensor) or one.ndim < 2 or len(one) != n]
    if not found or wrong:
        what = shown(wrong[0] if wrong else features)
        raise UserError(f"features returned {what} for {n} images, but it must return tensors ({n}, channels, ...).")
    return found


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + EPS).sqrt()
